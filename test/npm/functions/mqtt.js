'use strict'

const { once } = require('node:events')
const { createServer } = require('node:net')
const { Aedes } = require('aedes')
const mqtt = require('mqtt')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const broker = await Aedes.createBroker()
  const server = createServer(broker.handle)
  const client = await mqtt.connectAsync(`mqtt://127.0.0.1:${await listen(server)}`, { clientId: 'shop' })
  await client.subscribeAsync('teas/+/cups', { qos: 1 })
  const message = once(client, 'message')
  await client.publishAsync('teas/assam/cups', '2', { qos: 1, retain: true })
  const [topic, payload] = await message
  await client.endAsync()
  await new Promise((resolve) => broker.close(resolve))
  server.close()
  res.json({ ok: true, topic, payload: payload.toString() })
}
