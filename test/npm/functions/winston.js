'use strict'

const fs = require('node:fs')
const { once } = require('node:events')
const winston = require('winston')

module.exports = async (req, res) => {
  const log = winston.createLogger({
    level: 'info', format: winston.format.combine(winston.format.splat(), winston.format.json()), defaultMeta: { service: 'tea' },
    transports: [new winston.transports.File({ filename: '/tmp/winston.log' }), new winston.transports.Console({ silent: true })],
  })
  log.info('poured %d cups', 2, { order: 7 })
  log.debug('not seen')
  log.end()
  await once(log.transports[0], 'finish')
  res.json({ ok: true, lines: fs.readFileSync('/tmp/winston.log', 'utf8').trim().split('\n').map((line) => JSON.parse(line)) })
}
