'use strict'

// Contracts 1 to 3: functions that take connections over.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { WebSocket } = require('ws')
const { serving, request, bundle, LEASE, NODE_ADDRESS, NONCE, POD_ADDRESS } = require('./container.js')

const ECHO = `const { WebSocketServer } = require('ws')
  const wss = new WebSocketServer({ noServer: true })
  const echo = (name) => (req, socket, head) => wss.handleUpgrade(req, socket, head, (ws) => ws.on('message', (data) => ws.send(name + ' ' + req.url + ' ' + data)))
`
const WAYS = {
  'a handler’s upgrade': [{ 'index.js': `${ECHO} module.exports = (req, res) => res.send('plain'); module.exports.upgrade = echo('handler')` }, '/a?b', 'handler /a?b hello'],
  'an Express application’s': [{ 'index.js': `${ECHO} const app = require('express')(); app.use((req, res) => res.send('plain')); app.upgrade = echo('app'); module.exports = app` }, '/a', 'app /a hello'],
  'a function by name’s': [{ 'index.js': `${ECHO} exports.chat = (req, res) => res.send('plain'); exports.chat.upgrade = echo('chat'); exports.other = (req, res) => res.send('other')` }, '/chat/room', 'chat /room hello'],
  'a fetch handler’s': [{ 'index.js': `${ECHO} module.exports = { fetch: () => new Response('plain'), upgrade(req, socket, head) { return this.fetch && echo('fetch')(req, socket, head) } }` }, '/a', 'fetch /a hello'],
  'the socket of a request': [{ 'index.js': `${ECHO} module.exports = (req, res) => req.headers.upgrade ? echo('request')(req, req.socket, Buffer.alloc(0)) : res.send('plain')` }, '/a', 'request /a hello'],
  'a listener on the server': [{ 'index.js': `${ECHO} let listens = false
    module.exports = (req, res) => { if (!listens) { listens = true; req.socket.server.on('upgrade', echo('listener')) } res.send('plain') }` }, '/a', 'listener /a hello'],
}

const open = (container, host, path, headers = {}) => {
  const socket = new WebSocket(`ws://${host}:${container.port}${path}`, { headers })
  socket.on('error', () => {})
  return socket
}

for (const [name, [files, path, answer]] of Object.entries(WAYS)) {
  test(`WebSocket by ${name}`, async (t) => {
    const container = await serving(t, files, { packages: true })
    const idle = (from) => container.receive('activity', { from, where: (m) => m.inFlight === 0 && m.direct === 0 })
    assert.equal((await container.request({ path })).text, 'plain')
    await idle(0)
    for (const host of [NODE_ADDRESS, POD_ADDRESS]) {
      const from = container.messages.length
      const socket = open(container, host, path, host === NODE_ADDRESS ? { 'Sanfran-Lease': LEASE } : {})
      await once(socket, 'open')
      await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
      socket.send('hello')
      assert.equal(String((await once(socket, 'message'))[0]), answer)
      assert.equal((await container.request({ path })).text, 'plain')
      assert.equal(container.messages.at(-1).inFlight, 1, 'an open upgrade is activity')
      socket.close()
      await idle(from)
    }
    const refused = open(container, NODE_ADDRESS, path)
    const [, response] = await once(refused, 'unexpected-response')
    assert.deepEqual([response.statusCode, response.headers['sanfran-refused']], [421, NONCE])
    refused.terminate()
  })
}

// What a socket says to bytes, and a program that does without SanFran.
async function conversation(port, host, lease, parts) {
  const socket = net.connect(port, host).setEncoding('latin1')
  socket.on('error', () => {})
  let text = ''
  socket.on('data', (chunk) => (text += chunk))
  for (const [part, until] of parts) {
    socket.write(part.replace('LEASE', lease))
    while (!until.test(text) && !socket.readableEnded) await Promise.race([once(socket, 'data'), once(socket, 'end'), once(socket, 'close')])
  }
  socket.destroy()
  return text.replace(/Date: .*\r\n/, '').replace(/Keep-Alive: .*\r\n/, '')
}

test('without a way of its own an upgrade or CONNECT is what it is under plain Node.js', async (t) => {
  const handler = `(req, res) => {
    if (req.url === '/take') { // what libraries without a listener do
      req.socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: x\\r\\n\\r\\n')
      req.socket.on('data', (bytes) => req.socket.end('took ' + bytes.length))
    } else res.end('plain ' + req.upgrade + req.headers.upgrade)
  }`
  const container = await serving(t, { 'index.js': `module.exports = ${handler}` })
  const folder = bundle(t, { 'plain.js': `require('node:http').createServer(${handler}).listen(0, '127.0.0.1', function () { console.log(this.address().port) })` })
  const plain = spawn(process.execPath, ['plain.js'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
  t.after(() => plain.kill())
  const port = Number((await once(plain.stdout, 'data'))[0])
  const upgrade = 'Connection: Upgrade\r\nUpgrade: websocket\r\nLEASE\r\n'
  const cases = {
    answered: [[`GET / HTTP/1.1\r\nHost: a\r\n${upgrade}`, /websocket$/]],
    h2c: [[`GET / HTTP/1.1\r\nHost: a\r\n${upgrade.replace('websocket', 'h2c')}`, /h2c$/]],
    taken: [[`GET /take HTTP/1.1\r\nHost: a\r\n${upgrade}`, /\r\n\r\n/], ['\x81\x00', /took/]],
    CONNECT: [['CONNECT a:1 HTTP/1.1\r\nHost: a\r\nLEASE\r\n', /(?!)/]],
  }
  for (const [name, parts] of Object.entries(cases)) {
    const expected = await conversation(port, '127.0.0.1', 'X-Lease: none\r\n', parts)
    const withoutPowered = (text) => text.replace(/X-Powered-By: .*\r\n/, '')
    for (const host of [NODE_ADDRESS, POD_ADDRESS]) {
      assert.equal(withoutPowered(await conversation(container.port, host, `Sanfran-Lease: ${LEASE}\r\n`, parts)), expected, `${name} at ${host}`)
    }
  }
})

test('CONNECT reaches a listener of the function, with the lease alone', async (t) => {
  const container = await serving(t, { 'index.js': `let n = 0
    module.exports = (req, res) => { req.socket.server.on('connect', (req, socket) => socket.end('HTTP/1.1 200 OK\\r\\n\\r\\nconnected ' + ++n)); res.end() }` })
  await container.request({})
  const connect = (host, lease) => conversation(container.port, host, lease, [['CONNECT a:1 HTTP/1.1\r\nHost: a\r\nLEASE\r\n', /connected|421[^]*\r\n\r\n/]])
  assert.match(await connect(NODE_ADDRESS, ''), new RegExp(`^HTTP/1.1 421 [^]*Sanfran-Refused: ${NONCE}`))
  assert.match(await connect(NODE_ADDRESS, `Sanfran-Lease: ${LEASE}\r\n`), /connected 1/)
  assert.match(await connect(POD_ADDRESS, ''), /connected 2/)
})

const TAKES = `const take = (req, socket) => {
  socket.on('end', () => socket.end()).resume()
  req.resume()
  socket.write('HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n')
}`
for (const [kind, code] of Object.entries({
  'a function': `module.exports = (req, res) => res.end('plain'); module.exports.upgrade = take`,
  'a program': `require('http').createServer((req, res) => res.end('plain')).on('upgrade', take).listen(0)`,
})) {
  test(`an upgrade whose body is not whole reaches ${kind}`, async (t) => {
    const container = await serving(t, { 'index.js': `${TAKES}\n${code}` })
    const socket = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
    t.after(() => socket.destroy())
    socket.write(`POST / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 5\r\n\r\nab`)
    assert.match((await once(socket, 'data'))[0], /^HTTP\/1.1 101 /)
    await container.receive('activity', { where: (m) => m.inFlight === 1 })
    const from = container.messages.length
    socket.end('cde')
    await container.receive('activity', { from, where: (m) => m.inFlight === 0 })
    assert.equal((await container.request({})).text, 'plain')
  })
}

test('objects that stand for the request of an upgrade have its properties', async (t) => {
  const container = await serving(t, {
    'index.js': `module.exports = () => {}
      module.exports.upgrade = (req, socket) => {
        const seen = [req, Object.create(req), new Proxy(req, {})].map(({ ip, protocol, hostname, body, query }) => [ip, protocol, hostname, body === undefined, query.a])
        socket.end('HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n' + JSON.stringify(seen))
      }`,
  })
  const socket = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
  socket.write(`GET /?a=b HTTP/1.1\r\nHost: example.test\r\nSanfran-Lease: ${LEASE}\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n`)
  const text = (await socket.toArray()).join('')
  assert.deepEqual(JSON.parse(text.split('\r\n\r\n')[1]), Array(3).fill(['192.0.2.1', 'https', 'example.test', true, 'b']))
})

test('an upgrade that fails is logged and answered with 500, and the process lives', async (t) => {
  const container = await serving(t, { 'index.js': `exports.sync = () => {}; exports.sync.upgrade = () => { throw new Error('thrown at once') }
    exports.async = () => {}; exports.async.upgrade = async () => { await 1; throw new Error('thrown later') }
    exports.midway = () => {}; exports.midway.upgrade = async (req, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n'); await 1; throw new Error('thrown midway') }` })
  const status = async (path) => (await conversation(container.port, NODE_ADDRESS, '', [[`GET ${path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nSanfran-Lease: ${LEASE}\r\n\r\n`, /(?!)/]])).slice(0, 12)
  assert.deepEqual([await status('/sync'), await status('/async'), await status('/midway')], ['HTTP/1.1 500', 'HTTP/1.1 500', 'HTTP/1.1 101'])
  await container.logged(/thrown at once\n[^]*thrown later\n[^]*thrown midway/)
  assert.equal((await container.request({ path: '/none' })).status, 404)
})

test('draining refuses upgrades and waits for those that are open', async (t) => {
  const container = await serving(t, WAYS['a handler’s upgrade'][0], { packages: true })
  const socket = open(container, NODE_ADDRESS, '/', { 'Sanfran-Lease': LEASE })
  await once(socket, 'open')
  container.send({ type: 'drain', graceMs: 20_000 })
  const refused = await request({ host: NODE_ADDRESS, port: container.port, headers: { 'Sanfran-Lease': LEASE, Connection: 'Upgrade', Upgrade: 'x' } })
  assert.equal(refused.status, 421)
  socket.send('still')
  assert.match(String((await once(socket, 'message'))[0]), /still/)
  assert.equal(container.messages.some((m) => m.type === 'drained'), false)
  socket.close()
  await container.receive('drained')
})
