// What a function leaves for the next tenant, and what it wants to outlive it.
'use strict'
const fs = require('node:fs')
const { Refused, native } = require('./attempt.js')

const marks = ['/tmp/leftover', '/dev/shm/leftover']

module.exports = {
  leave: async (facts) => {
    for (const file of marks) fs.writeFileSync(file, facts.secret)
    globalThis.leftover = facts.secret
    process.env.SANFRAN_LEFTOVER = facts.secret
    return 'left files, a global and a variable'
  },
  find: () => {
    const found = marks.filter((file) => fs.existsSync(file))
    if (globalThis.leftover) found.push('a global')
    if (process.env.SANFRAN_LEFTOVER) found.push('a variable')
    if (fs.readdirSync('/tmp').length > 0) found.push(`in /tmp ${fs.readdirSync('/tmp')}`)
    if (found.length > 0) return `found ${found}`
    throw new Refused('NONE', 'nothing of the former container')
  },
  daemon: (facts) => native('stay', facts.witness, facts.name),
}
