'use strict'

// How a container ends: by its function's doing, which is told in one line
// before, or because the agent makes it, as SIGTERM would.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { serving, LEASE, NONCE, NODE_ADDRESS, POD_ADDRESS } = require('./container.js')

// What a request makes the function do; how that is told, the exit code, and
// the log.
const DEATHS = {
  'process.exit': ['process.exit(3)', 'Exited', /^process\.exit\(3\) was called \(index\.js:2\)$/, 3, /^$/],
  'process.exit with process.exitCode': ['process.exitCode = 4; process.exit()', 'Exited', /^process\.exit\(4\) was called \(index\.js:2\)$/, 4, /^$/],
  'process.exit without a failure': ['process.exit()', 'Exited', /^process\.exit\(0\) was called \(index\.js:2\)$/, 0, /^$/],
  'process.exit with a listener': ['process.on("exit", (code) => console.log("listener", code)); process.exit(5)', 'Exited', /^process\.exit\(5\)/, 5, /^listener 5\n$/],
  'uncaught exception': ['setTimeout(() => { throw new TypeError("nobody\\ncaught it") })', 'UncaughtException', /^TypeError: nobody \(index\.js:2\)$/, 1, /TypeError: nobody\ncaught it\n\s+at .*index\.js:2[^]*Node\.js v/],
  'uncaught exception that is no error': ['setTimeout(() => { throw null })', 'UncaughtException', /^threw null$/, 1, /Uncaught:\nnull|null\n/],
  'uncaught exception that is hostile': ['setTimeout(() => { throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } }) })', 'UncaughtException', /^threw /, 1, /./],
  'emitted error without a listener': ['setTimeout(() => new (require("events"))().emit("error", new Error("emitted")))', 'UncaughtException', /^Error: emitted \(index\.js:2\)$/, 1, /Error: emitted\n[^]*Emitted 'error' event at/],
  'unhandled rejection': ['Promise.reject(new RangeError("rejected"))', 'UnhandledRejection', /^RangeError: rejected \(index\.js:2\)$/, 1, /RangeError: rejected\n\s+at .*index\.js:2/],
  'unhandled rejection that is no error': ['Promise.reject("why")', 'UnhandledRejection', /"why"/, 1, /ERR_UNHANDLED_REJECTION/],
  'an exit listener that exits in another way': ['process.on("exit", () => process.exit(9)); setTimeout(() => { throw new Error("first") })', 'UncaughtException', /^Error: first/, 9, /^$/],
  'everything in its way broken': ['process.listenerCount = process.emit = JSON.stringify = () => { throw new Error("broken") }; setTimeout(() => { throw new Error("x") })', 'UncaughtException', /^Error: x/, undefined, /./],
}

for (const [name, [code, reason, message, exitCode, log]] of Object.entries(DEATHS)) {
  test(`${reason}: ${name}`, async (t) => {
    const container = await serving(t, { 'index.js': `module.exports = (req, res) => {\n ${code}\n}` })
    const [told] = await Promise.all([container.receive('ending'), assert.rejects(container.request({}))])
    const exited = await container.exited
    await container.closed
    assert.equal(told.reason, reason)
    assert.match(told.message, message)
    assert.doesNotMatch(told.message, /\n/)
    assert.ok(!told.stack.includes(require('node:path').dirname(__dirname)), told.stack)
    assert.equal(container.messages.filter((m) => m.type === 'ending').length, 1)
    if (exitCode !== undefined) assert.deepEqual(exited, { code: exitCode, signal: null })
    assert.match(container.log, log)
  })
}

test('an error that somebody catches ends nothing', async (t) => {
  const container = await serving(t, {
    'index.js': `process.on('uncaughtException', () => {})
      exports.listener = (req, res) => { res.send('ok'); setTimeout(() => { throw new Error() }) }
      exports.callback = (req, res) => {
        process.removeAllListeners('uncaughtException')
        process.setUncaughtExceptionCaptureCallback(null)
        process.setUncaughtExceptionCaptureCallback(() => {})
        res.send('ok'); setTimeout(() => { throw new Error() })
      }`,
  })
  for (const path of ['/listener', '/listener', '/callback', '/callback']) assert.equal((await container.request({ path })).text, 'ok')
  assert.equal(container.messages.some((m) => m.type === 'ending'), false)
})

test('a heap that is full ends the process, and the log says so', async (t) => {
  const container = await serving(t, { 'index.js': 'const all = []; module.exports = () => { for (;;) all.push(new Array(1000).fill(all.length)) }' }, { args: ['--max-old-space-size=40'] })
  await assert.rejects(container.request({}))
  await container.logged(/JavaScript heap out of memory/)
  assert.equal((await container.exited).signal, 'SIGABRT')
})

// Brings a container to where the agent ends it, and reads its end.
async function terminated(container) {
  container.send({ type: 'drain', graceMs: 10_000 })
  const { sigterm } = await container.receive('drained')
  container.send({ type: 'terminate' })
  const { code } = await container.exited
  await container.closed
  return { sigterm, code, log: container.log }
}

const LISTENS = `const log = (event) => process.on(event, (...args) => console.log(event, ...args))
  log('beforeExit'), log('exit')\n`

test('terminate without a listener of SIGTERM is its default action', async (t) => {
  const container = await serving(t, { 'index.js': `${LISTENS}setInterval(() => {}, 1000); module.exports = (req, res) => res.end()` })
  assert.deepEqual(await terminated(container), { sigterm: false, code: 143, log: '' })
})

test('terminate calls the listeners of SIGTERM, and the process ends when they end it', async (t) => {
  const container = await serving(t, {
    'index.js': `${LISTENS}setInterval(() => {}, 1000)
      process.on('SIGTERM', async (...args) => { console.log(...args); await new Promise((r) => setTimeout(r, 50)); process.exit(7) })
      module.exports = (req, res) => res.end()`,
  })
  assert.deepEqual(await terminated(container), { sigterm: true, code: 7, log: 'SIGTERM 15\nexit 7\n' })
  assert.equal(container.messages.some((m) => m.type === 'ending'), false, 'what the agent did is told to it')
})

test('terminate lets the process end when its listeners have closed everything, whoever is connected', async (t) => {
  const container = await serving(t, {
    'index.js': `${LISTENS}const timer = setInterval(() => {}, 1000)
      process.once('SIGTERM', () => setTimeout(() => clearInterval(timer), 100))
      module.exports = (req, res) => { if (req.path === '/hang') return; res.end() }`,
  })
  const sockets = [NODE_ADDRESS, NODE_ADDRESS].map((host) => net.connect(container.port, host).on('error', () => {}))
  t.after(() => sockets.forEach((socket) => socket.destroy()))
  const [gateway, hanging] = sockets
  const get = async (path) => {
    gateway.write(`GET ${path} HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
    return String(await once(gateway, 'data'))
  }
  assert.match(await get('/'), /^HTTP\/1.1 200/)
  hanging.write(`GET /hang HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await container.receive('activity', { where: (m) => m.inFlight === 1 })
  container.send({ type: 'drain', graceMs: 50 })
  await container.receive('drained')
  container.send({ type: 'terminate' })
  // What comes now is still refused, and known not to have run.
  assert.match(await get('/'), new RegExp(`^HTTP/1.1 421 [^]*Sanfran-Refused: ${NONCE}`))
  assert.equal((await container.exited).code, 0)
  await container.closed
  assert.equal(container.log, 'beforeExit 0\nexit 0\n')
})

test('a listener of SIGTERM that throws is an uncaught error', async (t) => {
  const container = await serving(t, { 'index.js': 'process.on("SIGTERM", () => { throw new Error("at the end") }); module.exports = (req, res) => res.end()' })
  const { code, log } = await terminated(container)
  assert.equal(code, 1)
  assert.match(log, /Error: at the end\n\s+at .*index\.js/)
})

test('a server hears of SIGTERM while it finishes what runs, and ends by itself', async (t) => {
  const container = await serving(t, {
    'server.js': `const server = require('http').createServer((req, res) => { if (req.url === '/wait') setTimeout(() => res.end('waited'), 300); else res.end('ok') })
      process.on('SIGTERM', () => { console.log('closing'); server.close(() => console.log('closed')) })
      process.on('exit', (code) => console.log('exit', code))
      server.listen(0)`,
  }, { command: ['node', 'server.js'] })
  assert.equal((await container.request({})).text, 'ok')
  const answers = [container.request({ path: '/wait' }), container.direct({ path: '/wait' })]
  await container.receive('activity', { where: (m) => m.inFlight === 1 && m.direct === 1 })
  container.send({ type: 'drain', graceMs: 10_000 })
  container.send({ type: 'terminate', early: true })
  assert.deepEqual((await Promise.all(answers)).map(({ text }) => text), ['waited', 'waited'])
  assert.equal((await container.exited).code, 0)
  await container.closed
  assert.equal(container.log, 'closing\nclosed\nexit 0\n')
})

test('a server that does not listen for SIGTERM is not disturbed early', async (t) => {
  const container = await serving(t, {
    'server.js': `require('http').createServer((req, res) => setTimeout(() => res.end('waited'), 300)).listen(0)`,
  }, { command: ['node', 'server.js'] })
  const answer = container.request({})
  await container.receive('activity', { where: (m) => m.inFlight === 1 })
  container.send({ type: 'drain', graceMs: 10_000 })
  container.send({ type: 'terminate', early: true })
  assert.equal((await answer).text, 'waited')
  assert.equal((await container.receive('drained')).sigterm, false)
  container.send({ type: 'terminate' })
  assert.equal((await container.exited).code, 143)
})

test('requests pipelined on a direct connection that closes are answered or not executed', async (t) => {
  const container = await serving(t, {
    'index.js': `let n = 0; module.exports = (req, res) => { n++; if (req.path === '/wait') setTimeout(() => res.end('waited'), 200); else res.end(String(n)) }`,
  })
  const direct = net.connect(container.port, POD_ADDRESS).setEncoding('utf8')
  const answers = direct.toArray()
  const get = (path) => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`
  direct.write(get('/wait'))
  await container.receive('activity', { where: (m) => m.inFlight === 1 && m.direct === 1 })
  container.send({ type: 'drain', graceMs: 10_000 })
  // Begun while draining: the first of them is answered and the last, the
  // others must not run. A gateway's request tells how many did.
  container.send({ type: 'ping' })
  await container.receive('activity', { from: container.messages.length })
  direct.write(get('/a') + get('/b') + get('/c'))
  const texts = (await answers).join('').split('HTTP/1.1 ').slice(1)
  assert.equal(texts.length, 2)
  assert.match(texts[0], /^200 OK[^]*Connection: keep-alive[^]*waited$/)
  assert.match(texts[1], /^200 OK[^]*Connection: close[^]*\r\n\r\n2$/)
  await container.receive('drained')
})
