'use strict'

// A module finds in a warm container what it finds in a process that was
// started for it: the same facts, taken by this module and by `node plain.js`.

const { execFileSync } = require('node:child_process')
const { join } = require('node:path')
const { facts } = require('./facts.js')

const here = facts()

module.exports = (req, res) => {
  const there = JSON.parse(execFileSync(process.execPath, [join(__dirname, 'plain.js')], {
    argv0: 'node', stdio: ['ignore', 'pipe', 'inherit'], maxBuffer: 64 << 20,
  }))
  const differ = {}
  for (const name of new Set([...Object.keys(here), ...Object.keys(there)])) {
    if (here[name] !== there[name]) differ[name] = differences(here[name], there[name])
  }
  res.json({ ok: true, compared: Object.keys(here).length > 50, differ })
}

// What differs: of lists the items that only one has, of functions their names.
function differences(here, there) {
  const lists = [here, there].map((text) => text.startsWith('[') ? JSON.parse(text) : [text])
  const [ours, theirs] = lists.map((list) => new Map(list.map((item) => [JSON.stringify(item), Array.isArray(item) ? item[0] : item])))
  const names = new Set()
  for (const [item, name] of ours) if (!theirs.has(item)) names.add(name)
  for (const [item, name] of theirs) if (!ours.has(item)) names.add(name)
  return [...names].sort()
}
