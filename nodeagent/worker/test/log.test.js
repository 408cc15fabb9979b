'use strict'

// What reaches the function's log, in which order, and of which request.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const http = require('node:http')
const net = require('node:net')
const test = require('node:test')

const { Container, serving, bundle, LEASE, NODE_ADDRESS } = require('./container.js')

/** The frames' texts, those of one write joined. */
const texts = (frames) => frames.map((f) => [f.stream, f.id, f.text])

test('both streams and console come in the order of writing, each piece with its request', async (t) => {
  const container = await serving(t, {
    'index.js': `console.log('loading')
      process.stderr.write('no line ')
      setTimeout(() => console.error('a timer of the module'))
      module.exports = async (req, res) => {
        for (let i = 0; i < 50; i++) { console.log('out', i); console.error('err', i); process.stdout.write('half '); process.stdout.write(Buffer.from('line\\n')) }
        await null
        console.log('after await')
        setTimeout(() => { console.log('in a timer'); res.end() }, 5)
      }`,
  })
  await container.logged(/a timer of the module/)
  assert.deepEqual(texts(container.frames.splice(0)), [[1, '', 'loading\n'], [2, '', 'no line '], [2, '', 'a timer of the module\n']])
  await container.request({ headers: { 'X-Request-Id': 'r1' } })
  await container.logged(/in a timer/)
  const expected = []
  for (let i = 0; i < 50; i++) expected.push([1, 'r1', `out ${i}\n`], [2, 'r1', `err ${i}\n`], [1, 'r1', 'half '], [1, 'r1', 'line\n'])
  assert.deepEqual(texts(container.frames), [...expected, [1, 'r1', 'after await\n'], [1, 'r1', 'in a timer\n']])
  assert.deepEqual([container.raw, container.reports], [{ 1: '', 2: '' }, ''])
})

test('requests at the same time keep their ids, also in callbacks and bodies', async (t) => {
  const container = await serving(t, {
    'index.js': `const fs = require('fs'), { AsyncLocalStorage } = require('async_hooks')
      const own = new AsyncLocalStorage()
      setInterval(() => console.log('module'), 5).unref()
      exports.wait = (req, res) => own.run(req.get('x-request-id'), async () => {
        console.log('begin', own.getStore())
        await new Promise((r) => setTimeout(r, Math.random() * 20))
        fs.readFile(__filename, () => { process.nextTick(() => { console.log('end', own.getStore()); res.end() }) })
      })
      exports.body = (req, res) => { console.log('body', req.get('x-request-id'), req.body.a); res.end() }
      exports.stream = (req, res) => { req.on('data', (d) => console.log('data', d.toString())).on('end', () => { console.log('end', req.get('x-request-id')); res.end() }) }`,
  })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 3 })
  t.after(() => agent.destroy())
  await Promise.all(Array.from({ length: 30 }, (_, i) => container.request({ path: '/wait', agent, headers: { 'X-Request-Id': `r${i}` } })))
  await container.request({ path: '/body', method: 'POST', agent, headers: { 'X-Request-Id': 'b1', 'Content-Type': 'application/json' }, body: '{"a":1}' })
  await container.request({ path: '/stream', method: 'POST', agent, headers: { 'X-Request-Id': 's1' }, body: 's1' })
  await container.logged(/end s1/)
  const named = container.frames.filter((f) => f.text !== 'module\n')
  assert.equal(named.length, 63)
  for (const { id, text, number } of named) {
    assert.equal(id, text.split(/\s/)[1], text)
    assert.notEqual(number, 0)
  }
  assert.equal(new Set(named.map((f) => f.number)).size, 32)
  const others = container.frames.filter((f) => f.text === 'module\n')
  assert.ok(others.length > 0 && others.every((f) => f.id === '' && f.number === 0), 'a timer of the module belongs to no request')
})

const READS = `const http = require('http'), express = require('express')
  const reads = (req, res) => {
    const say = (what) => console.log(what, req.headers['x-request-id'])
    say('begin')
    setTimeout(() => say('timer'))
    req.on('data', (data) => say(data.toString())).on('end', () => {
      say('end')
      setTimeout(() => { say('timer of end'); res.end('ok') })
    })
    Promise.resolve().then(() => say('promise'))
  }
  const iterates = async (req, res) => {
    for await (const data of req) console.log(data.toString(), req.headers['x-request-id'])
    console.log('end', req.headers['x-request-id'])
    res.end('ok')
  }
  class Message extends http.IncomingMessage {}
  const changed = (req, res) => reads(Object.setPrototypeOf(req, Message.prototype), res)`
for (const [kind, code] of Object.entries({
  'a function': 'module.exports = reads',
  'a function that iterates': 'module.exports = iterates',
  'a function that gives the request another prototype': 'module.exports = changed',
  'an Express application': 'module.exports = express().use(reads)',
  'a program': 'http.createServer(reads).listen(0)',
  'a program that iterates': 'http.createServer(iterates).listen(0)',
  'a program with a class of requests': 'http.createServer({ IncomingMessage: Message }, reads).listen(0)',
  'a program with Express': 'express().use(reads).listen(0)',
})) {
  test(`all that ${kind} writes has its request’s id, however late the body comes`, async (t) => {
    const container = await serving(t, { 'index.js': `${READS}\n${code}` }, { packages: true })
    const gateway = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
    t.after(() => gateway.destroy())
    const lines = () => container.log.split('\n').slice(0, -1)
    for (const id of ['r1', 'r2']) {
      const head = `POST / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\nX-Request-Id: ${id}\r\nTransfer-Encoding: chunked\r\n\r\n`
      gateway.write(`${head}5\r\nfirst\r\n`)
      await container.logged(new RegExp(`first ${id}`))
      gateway.write('6\r\nsecond\r\n')
      await container.logged(new RegExp(`second ${id}`))
      gateway.write('0\r\n\r\n')
      await once(gateway, 'data')
      await container.logged(new RegExp(`end ${id}\n$`))
    }
    assert.equal(lines().length, code.includes('iterates') ? 6 : 14)
    for (const { id, number, text } of container.frames) assert.deepEqual([id, number > 0], [/(\S+)\n$/.exec(text)[1], true], text)
    assert.equal(new Set(container.frames.map((f) => f.number)).size, 2)
  })
}

test('a program’s requests at the same time keep their ids, upgrades too', async (t) => {
  const container = await serving(t, {
    'server.js': `const http = require('http')
      const say = async (req) => {
        console.log('begin', req.headers['x-request-id'])
        await new Promise((r) => setTimeout(r, Math.random() * 20))
        console.log('end', req.headers['x-request-id'])
      }
      setInterval(() => console.log('module'), 5).unref()
      http.createServer((req, res) => say(req).then(() => res.end()))
        .on('upgrade', (req, socket) => say(req).then(() => socket.end('HTTP/1.1 400 Bad Request\\r\\n\\r\\n'))).listen(0)`,
  }, { command: ['node', 'server.js'] })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 3 })
  t.after(() => agent.destroy())
  await Promise.all(Array.from({ length: 30 }, (_, i) => {
    const upgrade = i % 10 === 0 ? { Connection: 'Upgrade', Upgrade: 'x' } : {}
    return container.request({ agent: upgrade.Upgrade ? false : agent, headers: { 'X-Request-Id': `r${i}`, ...upgrade } })
  }))
  const named = container.frames.filter((f) => f.text !== 'module\n')
  assert.equal(named.length, 60)
  for (const { id, text } of named) assert.equal(id, text.trim().split(' ')[1], text)
  assert.equal(new Set(named.map((f) => f.number)).size, 30)
  const others = container.frames.filter((f) => f.text === 'module\n')
  assert.ok(others.length > 0 && others.every((f) => f.id === '' && f.number === 0), 'a timer of the module belongs to no request')
})

test('pipelined requests keep their ids; ids are made fit', async (t) => {
  const container = await serving(t, { 'index.js': `module.exports = async (req, res) => { console.log(req.query.n); await null; console.log(req.query.n); res.end() }` })
  const head = (n, id) => `GET /?n=${n} HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n${id === undefined ? '' : `X-Request-Id: ${id}\r\n`}\r\n`
  const socket = net.connect(container.port, NODE_ADDRESS)
  t.after(() => socket.destroy())
  const long = 'x'.repeat(300)
  socket.write(head(1, 'one') + head(2, 'two two\té') + head(3, long) + head(4) + head(5))
  await container.logged(/5\n[^]*5\n/)
  const ids = {}
  for (const { id, number, text } of container.frames) (ids[text.trim()] ??= new Set()).add(`${id} ${number}`)
  assert.deepEqual(Object.values(ids).map((set) => [...set]), [['one 1'], ['two_two___ 2'], [`${long.slice(0, 128)} 3`], [' 4'], [' 5']])
})

test('lines of megabytes, many lines at once, and every encoding arrive whole', async (t) => {
  const big = 'ü€😀x'.repeat(400_000)
  const container = await serving(t, {
    'index.js': `exports.big = (req, res) => { console.log('ü€😀x'.repeat(400_000)); console.error(new Error('a stack').stack); res.end() }
      exports.encodings = (req, res) => { for (const [text, encoding] of [['616263', 'hex'], ['YWJj', 'base64'], ['\\u00e9', 'latin1'], ['ab', 'utf16le'], ['\\ud800', 'utf8']]) process.stdout.write(text, encoding)
        process.stdout.write(new Uint8Array([100, 10])); process.stdout.write(''); res.end() }
      exports.corked = (req, res) => { process.stdout.cork(); for (const c of 'abc') process.stdout.write(c); process.stdout.uncork(); res.end() }`,
  })
  await container.request({ path: '/big' })
  await container.logged(/a stack\n\s+at [^]*\n$/)
  assert.equal(container.frames.map((f) => f.bytes.length).every((n) => n <= 65536), true)
  const out = Buffer.concat(container.frames.filter((f) => f.stream === 1).map((f) => f.bytes))
  assert.equal(out.equals(Buffer.from(big + '\n')), true)

  container.frames.length = 0
  await container.request({ path: '/encodings' })
  await container.request({ path: '/corked' })
  await container.logged(/abc$/)
  assert.equal(Buffer.concat(container.frames.map((f) => f.bytes)).toString('hex'),
    Buffer.concat([Buffer.from('abcabc'), Buffer.from([0xe9]), Buffer.from('ab', 'utf16le'), Buffer.from('\ud800'), Buffer.from('d\nabc')]).toString('hex'))
})

test('nothing is lost when the process ends right after, however much was written', async (t) => {
  for (const [how, code] of [['process.exit(3)', 3], ['process.kill(process.pid, "SIGKILL")', null], ['process.abort()', null], ['setImmediate(() => { throw new Error("thrown") })', 1]]) {
    const container = await serving(t, { 'index.js': `process.on('exit', () => console.log('in exit')); module.exports = () => { process.stdout.write('x'.repeat(1_000_000) + '\\n'); console.error('last'); ${how} }` })
    await assert.rejects(container.request({}))
    assert.equal((await container.exited).code, code, how)
    await container.closed
    const all = container.frames.map((f) => f.text).join('')
    assert.equal(all.replace('in exit\n', '').replace(/\n[^\n]*thrown[^]*/, ''), 'x'.repeat(1_000_000) + '\nlast\n', how)
    assert.equal(/in exit\n$/.test(all), code !== null, how)
    if (code === 1) assert.match(container.raw[2], /Error: thrown\n\s+at /)
  }
})

test('a function that writes faster than the agent reads waits, and loses nothing', async (t) => {
  const container = await serving(t, { 'index.js': `module.exports = (req, res) => { for (let i = 0; i < 20_000; i++) console.log('a line of some length, number', i); res.send('done') }` })
  container.process.stdio[5].pause()
  const answer = container.request({})
  await container.receive('activity', { where: (m) => m.inFlight === 1 })
  container.process.stdio[5].resume()
  assert.equal((await answer).text, 'done')
  await container.logged(/number 19999\n$/)
  assert.equal(container.log, Array.from({ length: 20_000 }, (_, i) => `a line of some length, number ${i}\n`).join(''))
})

const STREAMS = `
const { Writable } = require('stream'), net = require('net')
const seen = []
for (const name of ['stdout', 'stderr']) {
  const s = process[name]
  const d = Object.getOwnPropertyDescriptor(process, name)
  seen.push([name, s.fd, s.isTTY, s._type, s instanceof Writable, s instanceof net.Socket, s.constructor.name, s === process[name], Object.keys(s).sort(), s.writableHighWaterMark,
    s.writable, s.readable, s.listenerCount('error'), d.get.name, Object.keys(d), d.configurable, d.enumerable, typeof s._handle, s._handle?.fd, s.listenerCount('close')])
}
seen.push(process.stdout.write('a\\n'), process.stdout.write('x'.repeat(20000) + '\\n'), process.stdout.writableLength, process.stdout.bytesWritten)
seen.push(process._getActiveHandles().filter((h) => h.constructor.name === 'Socket').map((h) => h.fd), process.getActiveResourcesInfo().filter((r) => r !== 'TCPServerWrap'))
const order = []
exports.streams = (done) => {
  process.stdout.write('b\\n', () => order.push('written'))
  process.nextTick(() => order.push('tick'))
  order.push('returned')
  process.stdout.on('finish', () => order.push('finish')).on('close', () => order.push('close')).on('error', (e) => order.push(e.code))
  setImmediate(() => { process.stdout.end('c\\n', () => order.push('ended'))
    process.stdout.write('late\\n', (e) => order.push('callback ' + e.code))
    setTimeout(() => done({ seen, order, destroyed: process.stdout.destroyed, finished: process.stdout.writableFinished }), 50) })
}`

test('the streams are those of plain Node.js with pipes', async (t) => {
  const files = { 'streams.js': STREAMS, 'index.js': `const { streams } = require('./streams.js'); module.exports = (req, res) => streams((all) => res.json(all))`, 'fresh.js': `require('./streams.js').streams((all) => process.stderr.write(JSON.stringify(all)))` }
  const container = await serving(t, files)
  const { json } = await container.request({})
  // In a shell's pipe, which is one, unlike what spawn makes.
  const fresh = spawn('/bin/sh', ['-c', `{ "${process.execPath}" fresh.js 2>&3 | cat >/dev/null; } 3>&1 | cat`], { cwd: container.entry })
  const text = (await fresh.stdout.toArray()).join('')
  const plain = JSON.parse(text)
  assert.deepEqual(json, plain)
  assert.match(container.log, /^a\nx{20000}\nb\nc\n$/)
})

test('loggers that patch or bypass the streams work', async (t) => {
  const container = await serving(t, {
    'index.js': `const fs = require('fs'), { execSync, spawn } = require('child_process'), { Worker } = require('worker_threads')
      exports.patch = (req, res) => { const { write } = process.stdout; process.stdout.write = function (s, ...rest) { return write.call(this, '[' + s.trim() + ']\\n', ...rest) }
        console.log('patched'); process.stdout.write = write; console.log('as before'); res.end() }
      exports.console = (req, res) => { new console.Console(process.stdout, process.stderr).error('own console'); res.end() }
      exports.sync = (req, res) => { fs.writeSync(1, 'raw out\\n'); fs.writeSync(2, 'raw err\\n'); res.end() }
      exports.child = (req, res) => { execSync('echo child out; echo child err >&2', { stdio: 'inherit' }); spawn('echo', ['later'], { stdio: 'inherit' }).on('exit', () => res.end()) }
      exports.thread = (req, res) => { new Worker('console.log("thread out"); console.error("thread err")', { eval: true }).on('exit', () => res.end()) }
      exports.pipe = (req, res) => { require('stream').Readable.from(['pi', 'ped\\n']).pipe(process.stdout, { end: false }); res.end() }`,
  })
  for (const name of ['patch', 'console', 'sync', 'child', 'thread', 'pipe']) await container.request({ path: `/${name}`, headers: { 'X-Request-Id': name } })
  await container.logged(/later\n/)
  await container.logged(/thread err\n/)
  await container.logged(/ped\n/)
  assert.deepEqual(container.raw, { 1: 'raw out\nchild out\nlater\n', 2: 'raw err\nchild err\n' })
  const framed = (stream) => container.frames.filter((f) => f.stream === stream).map((f) => `${f.id}: ${f.text}`)
  assert.deepEqual(framed(1), ['patch: [patched]\n', 'patch: as before\n', 'thread: thread out\n', 'pipe: pi', 'pipe: ped\n'])
  assert.deepEqual(framed(2), ['console: own console\n', 'thread: thread err\n'])
})

test('what a function does to the log’s ways harms itself alone', async (t) => {
  const container = await serving(t, {
    'index.js': `const fs = require('fs'), { AsyncLocalStorage } = require('async_hooks')
      fs.writeSync = Buffer.from = Buffer.prototype.utf8Write = Uint8Array.prototype.set = AsyncLocalStorage.prototype.getStore = AsyncLocalStorage.prototype.enterWith = () => { throw new Error('broken') }
      new (require('net').Socket)({ fd: 5 }).on('error', () => {}) // makes the pipe non-blocking
      module.exports = (req, res) => { process.stdout.write('x'.repeat(3_000_000) + '\\n'); res.end('ok') }`,
  })
  assert.equal((await container.request({ headers: { 'X-Request-Id': 'r' } })).text, 'ok')
  await container.logged(/x\n$/)
  assert.equal(container.log, 'x'.repeat(3_000_000) + '\n')
  assert.deepEqual([...new Set(container.frames.map((f) => f.id))], ['r'])
})

test('nothing of the worker’s own is in the log of a function that writes nothing', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => res.send("ok")', 'index.d.ts': '' })
  await container.request({})
  container.send({ type: 'drain', graceMs: 1000 })
  await container.receive('drained')
  container.control.destroy()
  await container.closed
  assert.deepEqual([container.log, container.reports], ['', ''])
})

test('a worker without the log’s pipe says so and ends', async (t) => {
  const child = spawn(process.execPath, ['--inspect-publish-uid=http', require.resolve('../main.js')], { stdio: ['ignore', 'pipe', 'pipe', 'pipe', 'pipe', 'ignore'] })
  t.after(() => child.kill('SIGKILL'))
  const text = (await child.stderr.toArray()).join('')
  assert.match(text, /descriptor 5 must be a pipe/)
})
