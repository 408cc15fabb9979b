'use strict'

// A module finds in a warm container what it finds in a process that was
// started for it: the same facts, taken by this module and by `node plain.js`.

const { execFileSync } = require('node:child_process')
const { join } = require('node:path')
const { facts } = require('./facts.js')

const here = facts()

module.exports = (req, res) => {
  const there = JSON.parse(execFileSync(process.execPath, [join(__dirname, 'plain.js')], { argv0: 'node', stdio: ['ignore', 'pipe', 'inherit'] }))
  const differ = {}
  for (const name of new Set([...Object.keys(here), ...Object.keys(there)])) {
    if (here[name] !== there[name]) differ[name] = [here[name], there[name]]
  }
  res.json({ ok: true, compared: Object.keys(here).length, differ })
}
