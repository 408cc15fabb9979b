'use strict'

// Takes over how errors look.
const fs = require('node:fs')
require('source-map-support').install()

module.exports = (req, res) => {
  // Line 1 of the built file is line 3 of tea.ts.
  const map = { version: 3, file: 'built.js', sources: ['tea.ts'], names: [], mappings: 'AAEA' }
  fs.writeFileSync('/tmp/built.js', `exports.fail = () => { throw new Error('cold') }\n//# sourceMappingURL=data:application/json;base64,${Buffer.from(JSON.stringify(map)).toString('base64')}\n`)
  let stack
  try { require('/tmp/built.js').fail() } catch (error) { stack = error.stack }
  res.json({ ok: true, at: /tea\.ts:3/.test(stack), first: stack.split('\n')[0] })
}
