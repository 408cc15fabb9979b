'use strict'

const cheerio = require('cheerio')

module.exports = (req, res) => {
  const $ = cheerio.load('<ul class="teas"><li data-cups="2">Assam</li><li>Oolong &amp; more</li></ul>')
  $('li').first().addClass('hot').attr('title', '"quoted"')
  $('ul').append('<li>New</li>')
  res.json({
    ok: true, texts: $('li').map((_, li) => $(li).text()).get(), cups: $('li').data('cups'), html: $('ul').prop('outerHTML'),
    extracted: $.extract({ names: ['.teas > li:not(.hot)'] }),
  })
}
