'use strict'

// What servers and clients inside a function take for granted of the network.
const cluster = require('node:cluster')
const dgram = require('node:dgram')
const dns = require('node:dns/promises')
const { once } = require('node:events')
const http = require('node:http')
const http2 = require('node:http2')
const https = require('node:https')
const net = require('node:net')
const { text } = require('node:stream/consumers')
const { Worker } = require('node:worker_threads')
const selfsigned = require('selfsigned')
const { Agent, fetch: undiciFetch } = require('undici')

const listening = async (server, ...args) => {
  server.listen(...args)
  await once(server, 'listening')
  return server.address().port
}

async function hosts() {
  const server = http.createServer((req, res) => res.end(req.socket.localFamily))
  const port = await listening(server, 0) // of all addresses
  const found = {}
  for (const host of ['localhost', '127.0.0.1', '127.0.0.9', '[::1]']) {
    found[host] = await fetch(`http://${host}:${port}/`).then((answer) => answer.text(), (error) => error.cause.code)
  }
  server.close()
  server.closeAllConnections()
  return found
}

async function tls() {
  const { private: key, cert } = await selfsigned.generate([{ name: 'commonName', value: 'localhost' }], { keySize: 2048, algorithm: 'sha256' })
  const server = https.createServer({ key, cert }, (req, res) => res.end(req.socket.getProtocol()))
  const port = await listening(server, 0, '127.0.0.1')
  const strange = await fetch(`https://localhost:${port}/`).catch((error) => error.cause.code)
  const answer = await new Promise((resolve, reject) => https.get({ host: 'localhost', port, ca: cert }, resolve).on('error', reject))
  const dispatcher = new Agent({ connect: { ca: cert } })
  const known = await (await undiciFetch(`https://localhost:${port}/`, { dispatcher })).text()
  await dispatcher.close()
  const body = await text(answer)
  server.close()
  server.closeAllConnections()
  return [strange, body, known]
}

async function h2() {
  const server = http2.createServer()
  server.on('stream', (stream, headers) => {
    stream.respond({ ':status': 200 })
    stream.end(headers[':path'])
  })
  const client = http2.connect(`http://127.0.0.1:${await listening(server, 0, '127.0.0.1')}`)
  const answers = await Promise.all(['/a', '/b'].map((path) => text(client.request({ ':path': path }))))
  client.close()
  server.close()
  return answers
}

async function udp() {
  const socket = dgram.createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  socket.send('ping', socket.address().port, '127.0.0.1')
  const [message] = await once(socket, 'message')
  socket.close()
  return message.toString()
}

async function thread() {
  const worker = new Worker(`const { parentPort } = require('node:worker_threads')
    const server = require('node:http').createServer((req, res) => res.end('thread')).listen(0, '127.0.0.1', () => parentPort.postMessage(server.address().port))`, { eval: true })
  const [port] = await once(worker, 'message')
  const answer = await (await fetch(`http://127.0.0.1:${port}/`)).text()
  await worker.terminate()
  return answer
}

async function workers() {
  require('node:fs').writeFileSync('/tmp/worker.js', `const http = require('node:http')
    http.createServer((req, res) => res.end('worker ' + require('node:cluster').isWorker)).listen(3456, '127.0.0.1')`)
  cluster.setupPrimary({ exec: '/tmp/worker.js' })
  const worker = cluster.fork()
  await once(worker, 'listening')
  const answer = await (await fetch('http://127.0.0.1:3456/')).text()
  worker.kill()
  await once(worker, 'exit')
  return answer
}

async function many() {
  const server = net.createServer((socket) => socket.end('x'))
  const port = await listening(server, 0, '127.0.0.1')
  const all = await Promise.all(Array.from({ length: 500 }, async () => (await text(net.connect(port, '127.0.0.1'))).length))
  server.close()
  return all.reduce((a, b) => a + b)
}

module.exports = async (req, res) => {
  const low = await listening(net.createServer(), 80, '127.0.0.1').catch((error) => error.code)
  const unknown = await dns.lookup('no.such.example').catch((error) => error.syscall)
  res.json({
    ok: true, hosts: await hosts(), tls: await tls(), h2: await h2(), udp: await udp(), thread: await thread(), workers: await workers(), many: await many(),
    low, unknown, itself: req.socket.remoteAddress !== undefined,
  })
}
