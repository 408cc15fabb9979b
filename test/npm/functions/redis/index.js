'use strict'

const { createClient } = require('redis')
const { listen } = require('./loopback.js')
const { redisServer } = require('./redis-server.js')

module.exports = async (req, res) => {
  const server = redisServer()
  const client = createClient({ url: `redis://127.0.0.1:${await listen(server)}` })
  client.on('error', () => {})
  await client.connect()
  const set = await client.set('tea', 'assam')
  const together = await Promise.all([client.get('tea'), client.incrBy('cups', 2), client.mGet(['tea', 'none'])])
  const transaction = await client.multi().incrBy('cups', 3).get('cups').exec()
  client.destroy()
  server.close()
  res.json({ ok: true, set, together, transaction })
}
