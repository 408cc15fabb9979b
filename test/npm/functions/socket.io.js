'use strict'

const { once } = require('node:events')
const { createServer } = require('node:http')
const { Server } = require('socket.io')
const { io } = require('socket.io-client')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const http = createServer()
  const server = new Server(http)
  server.on('connection', (socket) => {
    socket.join('room')
    socket.on('add', (a, b, answer) => answer(a + b))
    socket.on('shout', (text) => server.to('room').emit('heard', text.toUpperCase(), Buffer.from([1, 2, 3])))
  })
  const port = await listen(http)
  const results = {}
  for (const transport of ['polling', 'websocket']) {
    const client = io(`http://127.0.0.1:${port}`, { transports: [transport], forceNew: true })
    await once(client, 'connect')
    const sum = await client.emitWithAck('add', 20, 22)
    client.emit('shout', 'hello')
    const [text, bytes] = await once(client, 'heard')
    results[transport] = [sum, text, bytes.length]
    client.disconnect()
  }
  await server.close()
  res.json({ ok: true, ...results })
}
