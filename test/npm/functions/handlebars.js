'use strict'

const Handlebars = require('handlebars')

Handlebars.registerHelper('shout', (text) => text.toUpperCase())
Handlebars.registerPartial('cup', '<{{size}}>')
const page = Handlebars.compile('{{#each teas}}{{@index}}:{{shout name}}{{> cup}} {{else}}none{{/each}}{{note}}{{{raw}}}')

module.exports = (req, res) => res.json({
  ok: true, page: page({ teas: [{ name: 'assam', size: 'L' }, { name: 'oolong', size: 'S' }], note: '<b>', raw: '<i>' }), empty: page({}),
})
