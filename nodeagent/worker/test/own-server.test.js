'use strict'

// Contract 4: an unmodified server on the inherited socket. Gateways' requests
// show the lease before anything of the program runs (I2); direct connections
// are the program's own; the agent hears how busy it is.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const http = require('node:http')
const net = require('node:net')
const test = require('node:test')

const { serving, request, LEASE, NODE_ADDRESS, NONCE, POD_ADDRESS } = require('./container.js')

const run = (t, code, options = {}) => serving(t, { 'server.js': code, ...options.files }, { command: ['node', 'server.js'], ...options })

const connect = (container, host) => {
  const socket = net.connect(container.port, host).setEncoding('utf8')
  socket.text = ''
  socket.on('data', (text) => (socket.text += text))
  socket.on('error', () => {})
  return socket
}
const seen = async (socket, pattern) => {
  while (!pattern.test(socket.text)) await once(socket, 'data')
  const { text } = socket
  socket.text = ''
  return text
}

// Every way in which code of the program could see a request.
const WITNESS = `
const http = require('node:http')
const seen = []
class Req extends http.IncomingMessage { constructor(socket) { super(socket); seen.push('IncomingMessage') } _addHeaderLines(h, n) { seen.push('headers'); super._addHeaderLines(h, n) } }
class Res extends http.ServerResponse { constructor(req, o) { super(req, o); seen.push('ServerResponse') } }
const server = http.createServer({ IncomingMessage: Req, ServerResponse: Res, shouldUpgradeCallback() { seen.push('should'); return true } })
const { emit } = server
server.emit = function (name, ...args) { seen.push('emit ' + name); return emit.call(this, name, ...args) }
for (const name of ['connection', 'clientError', 'checkExpectation', 'timeout', 'dropRequest']) server.on(name, () => seen.push(name))
server.on('checkContinue', (req, res) => { res.writeContinue(); server.emit('request', req, res) })
server.on('upgrade', (req, socket) => { socket.end('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: x\\r\\n\\r\\nupgraded') })
server.on('connect', (req, socket) => { socket.end('HTTP/1.1 200 OK\\r\\n\\r\\nconnected') })
server.on('request', (req, res) => {
  if (req.url === '/clear') seen.length = 0
  req.resume().on('end', () => res.end(JSON.stringify({ seen, headers: req.rawHeaders, trailers: req.rawTrailers, classes: [req instanceof Req, res instanceof Res, req.socket.server === server] })))
})
server.listen(0)`

test('nothing of the program sees a request that does not show the lease', async (t) => {
  const container = await run(t, WITNESS)
  await container.request({ path: '/clear' })
  const wrong = ['', `Sanfran-Lease: ${LEASE}0\r\n`, `Sanfran-Lease: ${LEASE}\r\nsanfran-lease: ${LEASE}\r\n`]
  for (const lease of wrong) {
    const heads = [
      `GET / HTTP/1.1\r\nHost: a\r\n${lease}\r\n`,
      `POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n${lease}\r\n`,
      `GET / HTTP/1.1\r\nHost: a\r\nExpect: something\r\n${lease}\r\n`,
      `GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${lease}\r\n`,
      `CONNECT a:1 HTTP/1.1\r\nHost: a\r\n${lease}\r\n`,
      // More headers than one callback of the parser takes.
      `GET / HTTP/1.1\r\nHost: a\r\n${'X-Many: 1\r\n'.repeat(100)}${lease}\r\n`,
    ]
    for (const head of heads) {
      const socket = connect(container, NODE_ADDRESS)
      socket.write(head)
      const text = await seen(socket, /\r\n\r\n/)
      assert.match(text, new RegExp(`^HTTP/1.1 421 .*\\r\\nSanfran-Refused: ${NONCE}\\r\\n`, 's'), head)
      assert.doesNotMatch(text, /100 Continue/)
      socket.destroy()
    }
  }
  const garbage = connect(container, NODE_ADDRESS)
  garbage.write('\x16\x03\x01 no HTTP\r\n\r\n')
  assert.match(await seen(garbage, /\r\n\r\n/), /^HTTP\/1.1 400 /)
  // On a connection that has shown it once, each request must again.
  const socket = connect(container, NODE_ADDRESS)
  socket.write(`GET /clear HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n`)
  assert.match(await seen(socket, /421[^]*\r\n\r\n$/), /^HTTP\/1.1 200 [^]*"seen":\[\][^]*HTTP\/1.1 421 /)
  const { seen: now } = (await container.request({})).json
  assert.deepEqual([now.includes('emit clientError'), now.includes('should'), now.includes('emit upgrade'), now.includes('emit connect')], [false, false, false, false])
  assert.equal(now.filter((what) => what === 'emit request').length, 1, String(now))
})

test('a program without a listener for what a request expects never hears of it', async (t) => {
  const container = await run(t, `require('node:http').createServer((req, res) => res.end('called')).listen(0)`)
  for (const [lease, answer] of [['', new RegExp(`^HTTP/1.1 421 .*\\r\\nSanfran-Refused: ${NONCE}\\r\\n`, 's')], [`Sanfran-Lease: ${LEASE}\r\n`, /^HTTP\/1.1 417 /]]) {
    const socket = connect(container, NODE_ADDRESS)
    socket.write(`GET / HTTP/1.1\r\nHost: a\r\nExpect: something\r\n${lease}\r\n`)
    const text = await seen(socket, /\r\n\r\n/)
    assert.match(text, answer)
    assert.doesNotMatch(text, /called/)
    socket.destroy()
  }
})

test('what shows the lease reaches the program as from Node.js, without SanFran’s headers', async (t) => {
  const container = await run(t, WITNESS)
  const answers = async (host, lease) => {
    const texts = []
    for (const head of [
      'POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\nX-Mine: 1\r\n',
      'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n',
      'CONNECT a:1 HTTP/1.1\r\nHost: a\r\n',
      'POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n',
    ]) {
      await container.direct({ path: '/clear' })
      const socket = connect(container, host)
      socket.write(head + lease + '\r\n')
      if (/chunked/.test(head)) socket.write(`1\r\nx\r\n0\r\nX-T: 1\r\n${lease}\r\n`)
      if (/Expect/.test(head)) socket.write('x')
      texts.push((await seen(socket, /\}$|upgraded|connected/)).replace(/Date: .*/g, ''))
      socket.destroy()
    }
    return texts
  }
  const direct = await answers(POD_ADDRESS, '')
  const gateway = await answers(NODE_ADDRESS, `Sanfran-Lease: ${LEASE}\r\nSanfran-Pod: p\r\n`)
  const normal = (text) => text.replace(/(Connection|Keep-Alive|Content-Length): .*\r\n/g, '').replace(/"seen":\[[^\]]*\]/, '')
  assert.deepEqual(gateway.map(normal), direct.map(normal))
  assert.match(gateway[0], /"trailers":\["X-T","1"\],"classes":\[true,true,true\]/)
  assert.match(gateway[3], /^HTTP\/1.1 100 Continue/)
  for (const text of gateway) assert.doesNotMatch(text, /sanfran/i)
})

test('SanFran’s headers do not leave a program by the gateway', async (t) => {
  const container = await run(t, `require('node:http').createServer((req, res) => {
    res.writeEarlyHints({ link: '</a>; rel=preload', 'Sanfran-Refused': 'n', 'X-Kept': 'k' })
    if (req.url === '/set') res.setHeader('Sanfran-Refused', 'n').end('x')
    else { res.writeHead(421, ['Sanfran-Refused', 'n', 'X-Kept', 'k', 'Trailer', 'X-T']); res.write('x'); res.addTrailers({ 'Sanfran-Refused': 'n', 'X-T': 't' }); res.end() }
  }).listen(0)`)
  const { headers: set, interim: [hints] } = await container.request({ path: '/set' })
  assert.deepEqual([set['sanfran-refused'], hints.headers], [undefined, { link: '</a>; rel=preload', 'x-kept': 'k' }])
  const { headers, trailers } = await container.request({ path: '/' })
  assert.deepEqual([headers['sanfran-refused'], headers['x-kept'], trailers], [undefined, 'k', { 'x-t': 't' }])
})

test('gateways’ connections are never closed for idling, whatever the program’s time limits are; its own clients’ are', async (t) => {
  const container = await run(t, `const server = require('node:http').createServer((req, res) => {
    if (req.url === '/hang') return
    req.setTimeout(30)
    res.end('ok')
  })
  server.keepAliveTimeout = 50; server.keepAliveTimeoutBuffer = 0; server.headersTimeout = 40; server.requestTimeout = 60; server.timeout = 80; server.maxRequestsPerSocket = 1
  server.listen(0)`)
  const fresh = connect(container, NODE_ADDRESS) // no request yet
  const gateway = connect(container, NODE_ADDRESS)
  const direct = connect(container, POD_ADDRESS)
  for (const socket of [gateway, direct]) {
    socket.write(`GET / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
    assert.match(await seen(socket, /ok$/), /200 OK/)
  }
  await once(direct, 'end')
  const hanging = connect(container, NODE_ADDRESS) // in flight, so the program's limit holds
  hanging.write(`GET /hang HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await once(hanging, 'end')
  for (const socket of [gateway, fresh]) {
    socket.write(`GET / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
    assert.match(await seen(socket, /ok$/), /200 OK\r\n[^]*Connection: keep-alive/)
  }
})

test('activity: requests of gateways, upgrades until they are closed, connections of direct clients', async (t) => {
  const container = await run(t, `const server = require('node:http').createServer((req, res) => { if (req.url !== '/wait') res.end('ok') })
    server.on('upgrade', (req, socket) => socket.on('end', () => socket.end()).resume().write('HTTP/1.1 101 Switching Protocols\\r\\n\\r\\n')).listen(0)`)
  let from = container.messages.length
  const waiting = connect(container, NODE_ADDRESS)
  waiting.write(`GET /wait HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 && m.direct === 0 })
  waiting.destroy()
  await container.receive('activity', { from, where: (m) => m.inFlight === 0 })

  from = container.messages.length
  const upgraded = connect(container, NODE_ADDRESS)
  upgraded.write(`GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await seen(upgraded, /101/)
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
  await container.request({})
  assert.equal(container.messages.slice(from).some((m) => m.inFlight === 0), false)
  upgraded.destroy()
  await container.receive('activity', { from, where: (m) => m.inFlight === 0 })

  from = container.messages.length
  const direct = connect(container, POD_ADDRESS)
  await container.receive('activity', { from, where: (m) => m.direct === 1 && m.inFlight === 0 })
  direct.destroy()
  await container.receive('activity', { from, where: (m) => m.direct === 0 })
})

test('draining finishes what runs, refuses gateways and lets idle clients go', async (t) => {
  const container = await run(t, `require('node:http').createServer((req, res) => { if (req.url === '/wait') setTimeout(() => res.end('waited'), 400); else res.end('ok') }).listen(0)`)
  const gateway = connect(container, NODE_ADDRESS)
  const direct = connect(container, POD_ADDRESS)
  for (const socket of [gateway, direct]) {
    socket.write(`GET / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
    await seen(socket, /ok$/)
  }
  const from = container.messages.length
  const waiting = [container.request({ path: '/wait' }), container.direct({ path: '/wait' })]
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 && m.direct === 2 })
  container.send({ type: 'drain', graceMs: 10_000 })
  await once(direct, 'end')
  gateway.write(`GET / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  assert.match(await seen(gateway, /\r\n\r\n/), new RegExp(`421 [^]*Sanfran-Refused: ${NONCE}[^]*Connection: keep-alive`))
  assert.equal(container.messages.some((m) => m.type === 'drained'), false)
  assert.deepEqual((await Promise.all(waiting)).map((answer) => answer.text), ['waited', 'waited'])
  await container.receive('drained')
  assert.equal(gateway.readyState, 'open')
})

test('server.close calls back when what runs is done, and the process then ends as under plain Node.js', async (t) => {
  const container = await run(t, `const server = require('node:http').createServer((req, res) => {
    if (req.url === '/close') server.close(() => console.log('closed'))
    if (req.url === '/count') return server.getConnections((error, n) => res.end(String(n)))
    setTimeout(() => res.end('done'), 100)
  })
  server.on('close', () => console.log('close event'))
  process.on('exit', (code) => console.log('exit', code))
  server.listen(0)`)
  const idle = connect(container, NODE_ADDRESS)
  idle.write(`GET /count HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  assert.match(await seen(idle, /\r\n\r\n\d+$/), /\r\n\r\n1$/)
  const early = connect(container, NODE_ADDRESS)
  await once(early, 'connect')
  const agent = new http.Agent({ keepAlive: true })
  const running = container.request({ path: '/slow', agent })
  await container.receive('activity', { where: (m) => m.inFlight === 1 })
  assert.equal((await container.request({ path: '/close', agent })).text, 'done')
  assert.equal((await running).text, 'done')
  await container.logged(/closed\nclose event\n|close event\nclosed\n/)
  assert.deepEqual(await container.exited, { code: 0, signal: null })
  assert.match(container.log, /exit 0\n$/)
  agent.destroy()
})

test('server.close calls back after the last response has told its end', async (t) => {
  const container = await run(t, `const server = require('node:http').createServer((req, res) => {
    server.close(() => console.log('server closed'))
    res.on('close', () => console.log('response closed')).end('done')
  }).listen(0)`)
  assert.equal((await container.request({ agent: false })).text, 'done')
  assert.deepEqual(await container.exited, { code: 0, signal: null })
  await container.closed
  assert.equal(container.log, 'response closed\nserver closed\n')
})

test('after server.close gateways are refused, and direct clients find nobody', async (t) => {
  const container = await run(t, `const server = require('node:http').createServer((req, res) => res.end('first', () => server.close()))
    server.listen(0)
    setInterval(() => {}, 1000)
    process.on('SIGUSR2', () => require('node:http').createServer((req, res) => res.end('second')).listen(0, () => console.log('again')))`)
  assert.equal((await container.request({ agent: false })).text, 'first')
  assert.deepEqual([(await container.request({})).status, (await request({ host: NODE_ADDRESS, port: container.port })).status], [421, 421])
  await assert.rejects(container.direct({}), { code: 'ECONNRESET' })
  container.process.kill('SIGUSR2')
  await container.logged(/again/)
  assert.equal((await container.request({})).text, 'second')
  assert.equal((await container.direct({})).text, 'second')
})

test('the server that is first told to listen is the one, but for one on the pod’s own port', async (t) => {
  const free = net.createServer().listen(0, '127.0.0.1')
  await once(free, 'listening')
  const { port } = free.address()
  free.close()
  const code = `const http = require('node:http')
    const server = (name) => http.createServer((req, res) => {
      if (req.url !== '/other') return res.end(name)
      http.get({ port: other.address().port, host: '127.0.0.1' }, (answer) => answer.pipe(res)) // loopback
    })
    const other = server('metrics').listen(0, 'localhost') // listens after the next, when its name is looked up
    const third = server('third').listen(0)
    process.on('SIGUSR2', () => server('main').listen(${port}, () => console.log('main listens')))`
  const container = await run(t, code, { port })
  assert.equal((await container.request({})).text, 'metrics')
  container.process.kill('SIGUSR2')
  await container.logged(/main listens/)
  for (const way of ['request', 'direct']) {
    assert.equal((await container[way]({})).text, 'main')
    assert.equal((await container[way]({ path: '/other' })).text, 'metrics')
  }
})

test('address() and "listening" are what Node.js says', async (t) => {
  const container = await run(t, `const server = require('node:net').createServer()
    server.on('listening', () => console.log('event', JSON.stringify(server.address()), server.listening))
    server.listen({ port: 0, host: '127.0.0.1' }, () => console.log('callback'))`)
  assert.match(container.log, /event \{"address":"127.0.0.1","family":"IPv4","port":\d+\} true\ncallback\n/)
})

test('a server that is no HTTP server is reached directly alone', async (t) => {
  const programs = {
    raw: `require('node:net').createServer((socket) => socket.end('raw')).listen(0)`,
    http2: `require('node:http2').createServer((req, res) => res.end('h2')).listen(0)`,
  }
  for (const [name, code] of Object.entries(programs)) {
    const container = await run(t, code)
    const answer = await container.request({})
    assert.deepEqual([answer.status, answer.json.error.code], [501, 'NotHttpServer'], name)
    assert.equal((await request({ host: NODE_ADDRESS, port: container.port })).status, 421)
    const direct = connect(container, POD_ADDRESS)
    if (name === 'raw') assert.equal(await seen(direct, /raw/), 'raw')
    direct.destroy()
    const from = container.messages.length
    container.send({ type: 'drain', graceMs: 5000 })
    await container.receive('drained', { from })
  }
})

test('AsyncLocalStorage is that of the call of listen', async (t) => {
  const container = await run(t, `const storage = new (require('node:async_hooks').AsyncLocalStorage)()
    const server = require('node:http').createServer((req, res) => res.end(storage.getStore() ?? 'none'))
    storage.run('of listen', () => server.listen(0))`)
  assert.deepEqual([(await container.request({})).text, (await container.direct({})).text], ['of listen', 'of listen'])
})

test('listeners of "connection" hear of a gateway’s connection with its first request', async (t) => {
  const container = await run(t, `let n = 0
    const server = require('node:http').createServer((req, res) => res.end(String(req.socket.number)))
    server.on('connection', (socket) => (socket.number = ++n)).listen(0)`)
  const silent = connect(container, NODE_ADDRESS)
  await once(silent, 'connect')
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  assert.deepEqual([(await container.request({ agent })).text, (await container.request({ agent })).text, (await container.direct({})).text], ['1', '1', '2'])
  agent.destroy()
})

test('node:cluster serves direct clients from its workers, and no gateways', async (t) => {
  const container = await run(t, `const cluster = require('node:cluster')
    if (cluster.isPrimary) cluster.fork()
    else require('node:http').createServer((req, res) => res.end('worker ' + cluster.worker.id)).listen(0)`)
  assert.equal((await container.direct({})).text, 'worker 1')
  assert.equal((await container.request({})).json.error.code, 'NotHttpServer')
})

test('a listener of a worker thread is on loopback', async (t) => {
  const container = await run(t, `const { Worker, isMainThread, parentPort } = require('node:worker_threads')
    const http = require('node:http')
    if (isMainThread) new Worker(__filename).on('message', (port) => http.createServer((req, res) => http.get({ port }, (answer) => answer.pipe(res))).listen(0))
    else { const server = http.createServer((req, res) => res.end('thread')).listen(0, () => parentPort.postMessage(server.address().port)) }`)
  assert.equal((await container.request({})).text, 'thread')
})
