'use strict'

// I2, I4: what is refused reaches no code of the function's that looks over the
// shoulder of the HTTP server, and neither the lease nor the nonce does.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { serving, request, LEASE, NODE_ADDRESS, NONCE } = require('./container.js')

/** What the gateway's side of a connection reads in answer to these bytes. */
async function answered(container, bytes) {
  const socket = net.connect(container.port, NODE_ADDRESS).setEncoding('latin1')
  let text = ''
  socket.on('data', (chunk) => (text += chunk)).write(bytes)
  while (!/\r\n\r\n/.test(text)) await once(socket, 'data')
  socket.destroy()
  return text
}

/** Resolves when nothing is in flight. */
async function idle(container) {
  for (let inFlight = 1; inFlight > 0;) {
    const from = container.messages.length
    container.send({ type: 'ping' })
    inFlight = (await container.receive('activity', { from })).inFlight
  }
}

test('listeners that a function adds to the server hear of requests with the lease alone, and those count', async (t) => {
  // As socket.io attaches itself to a server.
  const container = await serving(t, {
    'index.js': `let n = 0, waiting
      const own = (req, res) => { n++; if (req.url === '/own/wait') waiting = res; else { waiting?.end('waited'); res.end('own ' + n) } }
      module.exports = (req, res) => {
        if (req.url !== '/attach') return res.end('function ' + n)
        const { server } = req.socket
        const before = server.listeners('request')
        server.removeAllListeners('request').on('request', (req, res) => {
          if (req.url.startsWith('/own')) return own(req, res)
          for (const listener of before) listener.call(server, req, res)
        })
        server.on('checkExpectation', own)
        server.on('connect', (req, socket) => { n++; socket.resume().on('end', () => socket.end()).write('HTTP/1.1 200 OK\\r\\n\\r\\n') })
        res.end('attached')
      }`,
  })
  assert.equal((await container.request({ path: '/attach' })).text, 'attached')
  for (const head of ['GET /own HTTP/1.1\r\n', 'GET /own HTTP/1.1\r\nExpect: more\r\n', 'CONNECT own:1 HTTP/1.1\r\n']) {
    assert.match(await answered(container, `${head}Host: a\r\n\r\n`), new RegExp(`^HTTP/1.1 421 [^]*Sanfran-Refused: ${NONCE}`), head)
  }
  assert.equal((await container.request({ path: '/' })).text, 'function 0', 'a refused request reached a listener')
  assert.equal((await container.request({ path: '/own', headers: { Expect: 'more' } })).text, 'own 1')

  await idle(container)
  const from = container.messages.length
  const waiting = container.request({ path: '/own/wait' })
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
  await container.request({ path: '/own' })
  assert.equal((await waiting).text, 'waited')
  await idle(container)

  const tunnel = net.connect(container.port, NODE_ADDRESS)
  tunnel.write(`CONNECT a:1 HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await once(tunnel, 'data')
  const asked = container.messages.length
  container.send({ type: 'ping' })
  assert.equal((await container.receive('activity', { from: asked })).inFlight, 1)
  tunnel.destroy()
  await idle(container)
})

const MONITORED = `
  const seen = []
  const { prototype } = require('node:http').Server
  const { emit } = prototype
  prototype.emit = function (event, req, ...rest) { seen.push('prototype ' + event + ' ' + req?.url); return emit.call(this, event, req, ...rest) }
  for (const name of ['request.start', 'response.created', 'response.finish']) {
    require('node:diagnostics_channel').subscribe('http.server.' + name, ({ request, response, server }) => {
      seen.push(name + ' ' + request.url + ' ' + response._header)
      if (server === undefined || Object.hasOwn(server, 'watched')) return
      server.watched = true
      const { emit } = server
      server.emit = function (event, req, ...rest) { seen.push('emit ' + event + ' ' + req?.url); return emit.call(this, event, req, ...rest) }
    })
  }
  const answer = (req, res) => res.end(JSON.stringify(seen))`
const KINDS = {
  'a function': `${MONITORED}; module.exports = answer`,
  'a program': `${MONITORED}; require('node:http').createServer(answer).listen(0)`,
}
for (const [kind, code] of Object.entries(KINDS)) {
  test(`what watches the requests of ${kind} sees none that is refused`, async (t) => {
    const container = await serving(t, { 'index.js': code })
    await container.request({ path: '/first' })
    for (const headers of [{}, { Connection: 'Upgrade', Upgrade: 'x' }, { Expect: '100-continue' }]) {
      const refused = await request({ host: NODE_ADDRESS, port: container.port, path: '/refused', headers })
      assert.deepEqual([refused.status, refused.headers['sanfran-refused']], [421, NONCE])
    }
    const { text } = await container.request({ path: '/last' })
    assert.doesNotMatch(text, /refused/i)
    for (const what of ['request.start /first', 'response.created /first', 'response.finish /first', 'emit request /last', 'prototype request /last']) assert.ok(text.includes(what), `${what} in ${text}`)
  })
}

test('a function that replaces what strings and arrays can do does not learn the lease', async (t) => {
  const container = await serving(t, {
    'index.js': `const stolen = []
      for (const [prototype, names] of [[String.prototype, ['charCodeAt', 'slice', 'toLowerCase']], [Array.prototype, ['splice']]]) {
        for (const name of names) {
          const old = prototype[name]
          prototype[name] = function (...args) { stolen[stolen.length] = String(this); return Reflect.apply(old, this, args) }
        }
      }
      module.exports = (req, res) => res.end(stolen.join('\\n'))`,
  })
  await container.request({})
  assert.doesNotMatch((await container.request({})).text, new RegExp(LEASE))
})
