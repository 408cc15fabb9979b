'use strict'

const yaml = require('js-yaml')

module.exports = (req, res) => {
  let wrong
  try { yaml.load('a: [1, 2') } catch (error) { wrong = error.name }
  res.json({ ok: true, loaded: yaml.load('teas:\n  - &a {name: assam, cups: 2}\n  - *a\nwhen: 2026-01-02\n'), dumped: yaml.dump({ a: [1, 'two'], b: null }), wrong })
}
