'use strict'

const Redis = require('ioredis')
const { listen } = require('./loopback.js')
const { redisServer } = require('./redis-server.js')

module.exports = async (req, res) => {
  const server = redisServer()
  const redis = new Redis({ port: await listen(server), host: '127.0.0.1', keyPrefix: 'shop:' })
  const set = await redis.set('tea', 'assam')
  const got = await redis.get('tea')
  const pipeline = await redis.pipeline().incrby('cups', 2).get('tea').exec()
  const transaction = await redis.multi().incrby('cups', 3).mget('tea', 'none').exec()
  const unknown = await redis.call('NOTHING').catch((error) => error.message)
  await redis.quit()
  server.close()
  const away = new Redis({ port: 1, host: '127.0.0.1', lazyConnect: true, retryStrategy: null, maxRetriesPerRequest: 0 })
  away.on('error', () => {})
  const refused = await away.connect().catch((error) => error.message)
  res.json({ ok: true, set, got, pipeline, transaction, unknown, refused })
}
