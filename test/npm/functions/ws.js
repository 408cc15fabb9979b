'use strict'

const { once } = require('node:events')
const { createServer } = require('node:http')
const { WebSocket, WebSocketServer } = require('ws')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const server = createServer()
  const sockets = new WebSocketServer({ server, perMessageDeflate: { threshold: 0 } })
  sockets.on('connection', (socket, request) => {
    socket.on('message', (data, binary) => socket.send(binary ? data : `${request.url} says ${data}`, { binary }))
  })
  const client = new WebSocket(`ws://127.0.0.1:${await listen(server)}/room`)
  await once(client, 'open')
  const ask = async (message) => {
    client.send(message)
    const [data, binary] = await once(client, 'message')
    return binary ? data.length : data.toString()
  }
  const answers = [await ask('hello'), await ask(Buffer.alloc(100_000, 7))]
  client.close(1000, 'done')
  const [code] = await once(client, 'close')
  sockets.close()
  server.close()
  res.json({ ok: true, answers, extensions: client.extensions, code })
}
