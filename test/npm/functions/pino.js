'use strict'

const fs = require('node:fs')
const { once } = require('node:events')
const pino = require('pino')

module.exports = async (req, res) => {
  const lines = []
  const log = pino({ base: null, timestamp: false, redact: ['password'] }, { write: (line) => lines.push(JSON.parse(line)) })
  log.child({ request: 7 }).info({ password: 'pw', tea: 'assam' }, 'poured %d cups', 2)
  log.error(new Error('cold'))
  log.debug('not seen')
  // A transport is a worker thread.
  const transport = pino.transport({ target: 'pino/file', options: { destination: '/tmp/log' } })
  await once(transport, 'ready')
  const threaded = pino({ base: null, timestamp: false }, transport)
  threaded.warn('from a thread')
  transport.end()
  await once(transport, 'close')
  res.json({ ok: true, first: lines[0], error: [lines[1].err.type, lines[1].msg], count: lines.length, threaded: JSON.parse(fs.readFileSync('/tmp/log', 'utf8')) })
}
