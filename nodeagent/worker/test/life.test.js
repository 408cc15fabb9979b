'use strict'

// From activation to the end: what happens when a function fails, how busy the agent is told it is, and draining.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const http = require('node:http')
const net = require('node:net')
const test = require('node:test')

const { Container, serving, bundle, LEASE, NONCE, NODE_ADDRESS, POD_ADDRESS } = require('./container.js')

test('programs that a function starts do not inherit the worker’s sockets', async (t) => {
  const container = await serving(t, {
    'index.js': `module.exports = (req, res) => res.send(require('child_process').execFileSync('/bin/ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' }))`,
  })
  const { text } = await container.request({})
  assert.doesNotMatch(text, /\b[34] -> socket/)
})

test('a function that throws or rejects answers 500, is logged, and lives', async (t) => {
  const container = await serving(t, {
    'index.js': `exports.sync = () => { throw new Error('thrown at once') }
      exports.async = async () => { await 1; throw new Error('thrown later', { cause: new Error('the cause') }) }
      exports.status = async () => { throw Object.assign(new Error('no tea'), { status: 418, expose: true }) }
      exports.library = async () => { throw Object.assign(new Error('the upstream wants a key'), { status: 401 }) }
      exports.bare = (req) => { throw { status: +req.query.status, message: req.query.message && [] } }
      exports.nothing = async () => { throw undefined }
      exports.late = async (req, res) => { res.write('begun'); await new Promise((r) => setTimeout(r, 20)); throw new Error('thrown midway') }
      exports.after = async (req, res) => { res.send('answered'); throw new Error('thrown afterwards') }
      exports.next = (req, res, next) => next(new Error('passed on'))
      exports.file = (req, res) => res.sendFile('/none/such')
      exports.ok = (req, res) => res.send('ok')`,
  })
  for (const name of ['sync', 'async', 'nothing', 'next']) {
    const { status, json } = await container.request({ path: `/${name}`, headers: { 'X-Request-Id': 'r1' } })
    assert.deepEqual([status, json], [500, { error: { code: 'FunctionError', message: 'the function failed; its log has the error', requestId: 'r1' } }])
  }
  const status = await container.request({ path: '/status' })
  assert.deepEqual([status.status, status.json], [418, { error: { code: 'ImaTeapot', message: 'no tea' } }])
  assert.equal((await container.request({ path: '/library' })).status, 401)
  for (const [path, message] of [['/bare?status=400', 'Bad Request'], ['/bare?status=403&message=1', 'Forbidden'], ['/bare?status=499', 'Status 499']]) {
    assert.equal((await container.request({ path })).json.error.message, message)
  }
  assert.equal((await container.request({ path: '/file' })).status, 404)
  await assert.rejects(container.request({ path: '/late' }), { code: 'ECONNRESET' })
  assert.equal((await container.request({ path: '/after' })).text, 'answered')
  assert.equal((await container.request({ path: '/ok' })).text, 'ok')
  await container.logged(/thrown at once\n\s+at .*index\.js[^]*thrown later\n[^]*the cause[^]*undefined\n[^]*passed on[^]*the upstream wants a key\n\s+at [^]*thrown midway[^]*thrown afterwards/)
  assert.doesNotMatch(container.log, /no tea|worker\/(server|contracts)\.js/)
})

test('an uncaught error ends the process as under plain Node.js', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = () => setTimeout(() => { throw new Error("nobody caught it") })' })
  await assert.rejects(container.request({}))
  assert.equal((await container.exited).code, 1)
  await container.logged(/nobody caught it/)

  const catching = await serving(t, { 'index.js': 'process.on("uncaughtException", () => {}); module.exports = (req, res) => { res.send("ok"); setTimeout(() => { throw new Error() }) }' })
  await catching.request({})
  assert.equal((await catching.request({})).text, 'ok')
})

test('what a function does to the globals does not touch the protocol', async (t) => {
  const container = await serving(t, {
    'index.js': `JSON.stringify = JSON.parse = () => 'broken'
      Promise.prototype.then = () => { throw new Error('broken') }
      globalThis.setTimeout = globalThis.setInterval = globalThis.Promise = () => { throw new Error('broken') }
      const { write } = require('net').Socket.prototype
      require('net').Socket.prototype.write = function (data, ...rest) { if (String(data).startsWith('{')) throw new Error('broken'); return write.call(this, data, ...rest) }
      process.exit = process.reallyExit = () => {}
      Object.prototype.toJSON = () => 'broken'
      module.exports = (req, res) => res.end('ok')`,
  })
  const from = container.messages.length
  assert.equal((await container.request({})).text, 'ok')
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
  await container.receive('activity', { from, where: (m) => m.inFlight === 0 })
  container.send({ type: 'drain', graceMs: 5000 })
  await container.receive('drained')
  container.control.destroy()
  assert.equal((await container.exited).code, 0)
})

test('a function whose standard error throws still says why it does not load', async (t) => {
  const container = await Container.start(t)
  const { type, reason, message } = await container.activate(t, { 'index.js': `process.stderr.write = () => { throw new Error('closed') }
    throw new Error('no database')` })
  assert.deepEqual([type, reason, message], ['failed', 'LoadError', 'Error: no database (index.js:2)'])
  assert.equal((await container.exited).code, 1)
})

test('activity: work is told before the function runs, idleness when it is true, and not more often than every 50 ms', async (t) => {
  const container = await serving(t, { 'index.js': `module.exports = (req, res) => { if (req.path === '/wait') setTimeout(() => res.end(), 200); else res.end() }` })
  const from = container.messages.length
  await container.request({ path: '/wait' })
  assert.deepEqual(container.messages.slice(from)[0], { type: 'activity', inFlight: 1, direct: 0, came: 1 })
  await container.receive('activity', { from, where: (m) => m.inFlight === 0 })

  const before = container.messages.length
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  const began = Date.now()
  for (let i = 0; i < 300; i++) await container.request({ agent })
  const reports = container.messages.length - before
  assert.ok(reports <= 2 * ((Date.now() - began) / 50 + 1), `${reports} reports in ${Date.now() - began} ms`)
  agent.destroy()

  const idle = container.messages.length
  const socket = net.connect(container.port, POD_ADDRESS)
  await container.receive('activity', { from: idle, where: (m) => m.direct === 1 })
  socket.destroy()
  await container.receive('activity', { from: idle, where: (m) => m.direct === 0 && m.inFlight === 0 })
})

for (const [kind, files] of Object.entries({
  'a function': { 'index.js': `module.exports = (req, res) => res.end()` },
  'a program': { 'server.js': `require('node:http').createServer((req, res) => res.end()).listen(0); process.on('SIGTERM', () => {})`, 'package.json': '{"scripts":{"start":"node server.js"}}' },
})) {
  test(`activity: ${kind} tells of each direct connection that came, and of requests of others`, async (t) => {
    const container = await serving(t, files)
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
    t.after(() => agent.destroy())
    const from = container.messages.length
    for (let i = 0; i < 3; i++) await container.request({ agent })
    await container.receive('activity', { from, where: (m) => m.came === 3 })
    for (let i = 0; i < 2; i++) {
      const socket = net.connect(container.port, POD_ADDRESS)
      await container.receive('activity', { from, where: (m) => m.came === 4 + i })
      t.after(() => socket.destroy())
    }
    container.send({ type: 'ping' })
    await container.receive('activity', { from, where: (m) => m.sigterm === (kind === 'a program' ? true : undefined) })
  })
}

const COUNTED = `
  let wait
  const paths = {
    '/wait': (req, res) => (wait = res),
    '/go': (req, res) => { wait.end('waited'); res.end() },
    '/removed': (req, res) => { res.removeAllListeners('close'); res.on('close', () => {}); res.end('ok') },
    '/twice': (req, res) => res.once('close', () => { res.emit('close'); res.emit('close') }).end('ok'),
    '/without': (req, res) => { res.req = null; res.end('ok') },
    '/silenced': (req, res) => {
      const { emit } = res
      res.emit = function (name, ...rest) { return name === 'close' || emit.call(this, name, ...rest) }
      res.end('ok')
    },
    '/replaced': (req, res) => {
      const { socket } = req
      res.detachSocket(socket)
      const other = new (require('node:http').ServerResponse)(req)
      other.assignSocket(socket)
      other.on('finish', () => other.detachSocket(socket)).end('ok')
    },
    '/back': (req, res) => {
      const { socket } = res
      res.detachSocket(socket)
      res.assignSocket(socket)
      res.end('ok')
    },
  }
  const answer = (req, res) => paths[req.url](req, res)`
const PATHS = ['/removed', '/twice', '/without', '/silenced', '/replaced', '/back']
const KINDS = {
  'a function': `${COUNTED}; module.exports = answer`,
  'an Express application': `${COUNTED}; module.exports = require('express')().use(answer)`,
  'a program': `${COUNTED}; require('node:http').createServer(answer).listen(0)`,
  'a program with Express': `${COUNTED}; require('express')().use(answer).listen(0)`,
}
for (const [kind, code] of Object.entries(KINDS)) {
  test(`activity: a request of ${kind} counts once, whatever becomes of its response`, async (t) => {
    const container = await serving(t, { 'index.js': code }, { packages: true })
    const agent = new http.Agent({ keepAlive: true })
    // Node.js itself fails on a connection that has seen another response after this.
    const replaced = new http.Agent({ keepAlive: true })
    t.after(() => [agent, replaced].forEach((agent) => agent.destroy()))
    for (const path of PATHS) {
      const from = container.messages.length
      const waiting = container.request({ path: '/wait', agent })
      await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
      assert.equal((await container.request({ path, agent: path === '/replaced' ? replaced : agent })).text, 'ok')
      const asked = container.messages.length
      container.send({ type: 'ping' })
      assert.equal((await container.receive('activity', { from: asked })).inFlight, 1, path)
      await container.request({ path: '/go', agent })
      assert.equal((await waiting).text, 'waited')
      await container.receive('activity', { from, where: (m) => m.inFlight === 0 })
    }
  })
}

test('draining finishes what runs, refuses gateways with the nonce and never closes their connections', async (t) => {
  const container = await serving(t, { 'index.js': `module.exports = (req, res) => { if (req.path === '/wait') setTimeout(() => res.end('waited'), 400); else res.end('ok') }` })
  const gateway = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
  const direct = net.connect(container.port, POD_ADDRESS).setEncoding('utf8')
  const get = (socket, target) => {
    socket.write(`GET ${target} HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
    return once(socket, 'data').then(([text]) => text)
  }
  assert.match(await get(gateway, '/'), /200 OK[^]*Connection: keep-alive/)
  const answer = await get(direct, '/')
  assert.match(answer, /200 OK[^]*Keep-Alive: timeout=5/)

  const waiting = container.request({ path: '/wait' })
  const waitingDirect = container.direct({ path: '/wait' })
  await container.receive('activity', { where: (m) => m.inFlight === 2 })
  container.send({ type: 'drain', graceMs: 10_000 })
  container.send({ type: 'drain', graceMs: 10_000 })
  await once(direct, 'end') // idle, so it is closed
  assert.match(await get(gateway, '/'), new RegExp(`421 [^]*Sanfran-Refused: ${NONCE}[^]*Connection: keep-alive`))
  assert.equal(container.messages.some((m) => m.type === 'drained'), false)
  assert.deepEqual([(await waiting).text, (await waitingDirect).text], ['waited', 'waited'])
  await container.receive('drained')
  assert.match(await get(gateway, '/'), /421 /)
  const from = container.messages.length
  container.send({ type: 'drain', graceMs: 10_000 }) // of an agent that took over and knows of no answer
  await container.receive('drained', { from })
  assert.equal(gateway.readyState, 'open')
  gateway.destroy()
  direct.destroy()
})

test('draining ends with its grace period', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => {}' })
  container.request({}).catch(() => {})
  await container.receive('activity', { where: (m) => m.inFlight === 1 })
  const began = Date.now()
  container.send({ type: 'drain', graceMs: 200 })
  await container.receive('drained')
  assert.ok(Date.now() - began >= 190)
})

test('large and slow answers pass whole, HEAD and pipelining too', async (t) => {
  const container = await serving(t, {
    'index.js': `exports.big = (req, res) => res.end(Buffer.alloc(32 << 20, 'x'))
      exports.sse = (req, res) => { res.set('Content-Type', 'text/event-stream'); let n = 0
        const timer = setInterval(() => { res.write('data: ' + ++n + '\\n\\n'); if (n === 3) { clearInterval(timer); res.end() } }, 20) }
      exports.echo = (req, res) => res.send(req.query.n)`,
  })
  const big = await container.request({ path: '/big' })
  assert.equal(big.bytes.length, 32 << 20)
  assert.equal((await container.request({ path: '/big', method: 'HEAD' })).text, '')
  assert.equal((await container.request({ path: '/sse' })).text, 'data: 1\n\ndata: 2\n\ndata: 3\n\n')

  const socket = net.connect(container.port, NODE_ADDRESS)
  const last = [1, 2, 3].map((n) => `GET /echo?n=${n} HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n${n === 3 ? 'Connection: close\r\n' : ''}\r\n`)
  socket.write(last.join(''))
  const bodies = (await socket.toArray()).join('').split('HTTP/1.1 200 OK').slice(1).map((answer) => answer.split('\r\n\r\n')[1])
  assert.deepEqual(bodies, ['1', '2', '3'])
})

test('only one activation, and none of what came before it, counts', async (t) => {
  const container = await Container.start(t, { warm: false })
  // Said while the worker still warms up.
  const entry = bundle(t, { 'index.js': 'module.exports = (req, res) => res.send("early")' })
  const activate = { type: 'activate', lease: LEASE, nonce: NONCE, entry, podAddress: '', env: {}, loadTimeoutMs: 1000 }
  container.send(activate)
  await container.receive('ready')
  assert.equal((await container.request({})).text, 'early')
  container.send(activate)
  assert.equal((await container.exited).code, 1)
  await container.reported(/activate while ready/)
})
