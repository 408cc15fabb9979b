'use strict'

const { XMLBuilder, XMLParser, XMLValidator } = require('fast-xml-parser')

module.exports = (req, res) => {
  const parser = new XMLParser({ ignoreAttributes: false, isArray: (name) => name === 'tea' })
  const shop = parser.parse('<?xml version="1.0"?><shop open="yes"><tea cups="2">assam &amp; more</tea><empty/></shop>')
  res.json({ ok: true, shop, built: new XMLBuilder({ ignoreAttributes: false }).build({ a: { '@_b': '1', c: ['x', 'y'] } }), wrong: XMLValidator.validate('<a><b></a>').err.code })
}
