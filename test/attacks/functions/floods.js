// What eats. Each is bounded in time (seconds), count and bytes, and stops by
// itself.
'use strict'
const fs = require('node:fs')
const net = require('node:net')
const { Refused, nativeBeside } = require('./attempt.js')

const until = (seconds) => { const end = Date.now() + 1000 * seconds; return () => Date.now() < end }
const turn = () => new Promise((resolve) => setImmediate(resolve))

module.exports = {
  fork: ({ seconds }) => nativeBeside('fork-bomb', String(seconds)),
  cpu: ({ seconds }) => nativeBeside('spin', String(seconds)),
  memory: async ({ seconds }) => {
    const more = until(seconds)
    const all = []
    for (let mebibytes = 0; mebibytes < 4096; mebibytes += 16) {
      all.push(Buffer.alloc(16 << 20, 1))
      await turn()
    }
    while (more()) await turn()
    return `has ${all.length * 16} MiB`
  },
  descriptors: async ({ seconds }) => {
    const more = until(seconds)
    const all = []
    let refusal
    try {
      while (all.length < 1 << 17) all.push(fs.openSync('/dev/null'))
    } catch (error) { refusal = error }
    while (more()) { // and again and again
      for (let i = 0; i < 1000 && all.length > 0; i++) {
        fs.closeSync(all.pop())
        try { all.push(fs.openSync('/dev/null')) } catch (error) { refusal = error }
      }
      await turn()
    }
    const count = all.length
    all.forEach((fd) => fs.closeSync(fd))
    if (refusal) throw new Refused(refusal.code, `after ${count} descriptors`)
    return `has ${count} descriptors`
  },
  disk: async ({ seconds }) => {
    const more = until(seconds)
    const block = Buffer.alloc(1 << 20)
    let refusal
    let written = 0
    do {
      const fd = fs.openSync('/tmp/fill', 'w')
      try {
        for (written = 0; written < 4096; written++) {
          fs.writeSync(fd, block)
          if (written % 16 === 0) await turn()
        }
      } catch (error) { refusal = error }
      fs.closeSync(fd)
      fs.unlinkSync('/tmp/fill')
    } while (more())
    if (refusal) throw new Refused(refusal.code, `after ${written} MiB`)
    return `wrote ${written} MiB into /tmp`
  },
  logs: async ({ seconds }) => {
    const more = until(seconds)
    const line = 'x'.repeat(16 << 10)
    let lines = 0
    for (; more() && lines < 1 << 14; lines++) {
      console.log(line)
      await turn()
    }
    return `wrote ${lines >> 6} MiB of logs`
  },
  connections: async ({ seconds, unassigned, witness }) => {
    const more = until(seconds)
    let made = 0
    const one = (address) => new Promise((resolve) => {
      const [host, port] = address.split(':')
      const socket = net.connect({ host, port: Number(port) })
      const timer = setTimeout(() => socket.destroy(), 200)
      socket.on('connect', () => { made++; socket.destroy() })
      socket.on('error', () => {})
      socket.on('close', () => { clearTimeout(timer); resolve() })
    })
    const flood = async (address) => { while (more() && made < 20_000) await one(address) }
    await Promise.all([...Array(16).fill(unassigned), ...Array(16).fill(witness)].map(flood))
    return `made ${made} connections`
  },
}
