'use strict'

const ejs = require('ejs')

module.exports = async (req, res) => {
  let broken
  try { ejs.render('<% if (%>', {}) } catch (error) { broken = error.name }
  res.json({
    ok: true, page: ejs.render('<% for (const tea of teas) { %>[<%= tea %>]<% } %><%- raw %>', { teas: ['a', '<b>'], raw: '<i>' }),
    later: await ejs.render('<%= await tea() %>', { tea: async () => 'assam' }, { async: true }), broken,
  })
}
