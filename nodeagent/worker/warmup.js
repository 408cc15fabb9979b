'use strict'

// Before a container is offered, it does once what it will do for its function:
// load a module, take requests, answer them. Node then has compiled what it
// needs and loaded what it loads on demand, and the first request of a function
// finds it all there. Once is enough: measured, more rounds make the first answer
// no faster, but the boot slower and the process larger.

const { once } = require('node:events')
const Module = require('node:module')
const net = require('node:net')
const { join } = require('node:path')

const { Control } = require('./control.js')
const { refresh } = require('./express.js')
const { unnoted } = require('./feedback.js')
const { leaseOf } = require('./lease.js')
const { load } = require('./load.js')
const { FunctionServer } = require('./server.js')

const REQUESTS = [
  'GET /text?name=warm HTTP/1.1\r\nHost: warm\r\nAccept: */*\r\nSanfran-Client: 192.0.2.1:1\r\n',
  'GET /text?name=warm HTTP/1.1\r\nHost: warm\r\nAccept: */*\r\nUser-Agent: warm\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n',
  'GET /end HTTP/1.1\r\nHost: warm\r\n',
  'GET /json?name=warm HTTP/1.1\r\nHost: warm\r\nAccept-Encoding: gzip\r\n',
  'GET /cookie HTTP/1.1\r\nHost: warm\r\nCookie: a=1\r\n',
  'GET /redirect HTTP/1.1\r\nHost: warm\r\n',
  'GET /none HTTP/1.1\r\nHost: warm\r\n',
]
const BODIES = [
  ['application/json', '{"a":1}'],
  ['application/x-www-form-urlencoded', 'a=1'],
  ['text/plain', 'a'],
  ['application/octet-stream', 'a'],
]

const LEASE = { lease: 'warm', nonce: 'cold', podAddress: '127.0.0.1' }

/**
 * Runs the worker warm. When it resolves, no handle, listener, module or
 * variable of it is left that a function could find.
 */
async function warmUp() {
  const folder = process.cwd()
  await unnoted(async () => {
    globalThis.fetch // loaded by Node when first looked at, as are its classes
    await rehearse()
    await converse(join(__dirname, 'warm'))
    await converse(join(__dirname, 'warm', 'index.mjs'))
  })
  process.chdir(folder)
  forget()
}

// What an activation does, but for becoming this very container's.
async function rehearse() {
  const entry = join(__dirname, 'warm')
  const line = JSON.stringify({ type: 'activate', ...LEASE, entry, env: { ...process.env }, loadTimeoutMs: 10_000 })
  const { client, socket, close } = await pair()
  const answered = once(client, 'data')
  const control = new Control(socket, {
    receive({ lease, nonce, podAddress, entry, env, loadTimeoutMs }) {
      const server = new FunctionServer(() => {})
      server.activate(leaseOf({ lease, nonce, podAddress }))
      server.serve(load({ entry, env, loadTimeoutMs, command: [], workingDir: '', listening: { begun: false }, died() {} }))
      refresh()
      control.send({ type: 'ready', loadMs: 0 })
      forget()
    },
    broken() {},
  })
  client.write(`${line}\n`)
  await answered
  await close()
}

function forget() {
  for (const file of Object.keys(require.cache)) delete require.cache[file]
  for (const key of Object.keys(Module._pathCache ?? {})) delete Module._pathCache[key]
}

// Two ends of a connection that is no file, and belongs to the container alone.
async function pair() {
  const acceptor = net.createServer()
  const accepted = new Promise((resolve) => acceptor.once('connection', resolve))
  await new Promise((resolve, reject) => acceptor.once('error', reject).listen(`\0sanfran-warm-${process.pid}`, resolve))
  const client = net.connect(acceptor.address())
  const socket = await accepted
  const ended = new Promise((resolve) => acceptor.close(resolve))
  return { client, socket, close: () => (client.destroy(), socket.destroy(), ended) }
}

async function converse(file) {
  const server = new FunctionServer(() => {})
  server.activate(leaseOf(LEASE))
  server.serve(await load({ entry: file, env: { ...process.env }, loadTimeoutMs: 10_000, died() {} }))

  const requests = REQUESTS.map((head) => `${head}Sanfran-Lease: ${LEASE.lease}\r\n\r\n`)
  for (const [type, body] of BODIES) {
    requests.push(`POST /json HTTP/1.1\r\nHost: warm\r\nSanfran-Lease: ${LEASE.lease}\r\nContent-Type: ${type}\r\n` +
      `Content-Length: ${body.length}\r\n\r\n${body}`)
  }
  requests.push('GET / HTTP/1.1\r\nHost: warm\r\nSanfran-Lease: cold\r\n\r\n')

  const { client, socket, close } = await pair()
  server.http.emit('connection', socket)
  let answers = ''
  let wake = () => {}
  client.setEncoding('latin1').on('data', (text) => {
    answers += text
    wake()
  })
  const count = (text) => answers.split(text).length - 1
  for (const [done, request] of requests.entries()) {
    client.write(request)
    while (count('HTTP/1.1 ') <= done) await new Promise((resolve) => (wake = resolve))
  }
  // Also a proof that the lease check of this very Node version works.
  const refused = count('Sanfran-Refused: cold')
  if (refused !== 1) throw new Error(`the lease check refused ${refused} requests instead of one`)
  await close()
}

module.exports = { warmUp }
