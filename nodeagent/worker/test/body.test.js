'use strict'

// req.body: parsed by content type when it is read, untouched when it is not.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const { Agent } = require('node:http')
const net = require('node:net')
const test = require('node:test')
const zlib = require('node:zlib')

const { serving, LEASE, NODE_ADDRESS } = require('./container.js')

const LIMIT = 1 << 20
const SHOW = `exports.show = (req, res) => res.json({ body: req.body, type: Buffer.isBuffer(req.body) ? 'buffer' : typeof req.body, same: req.body === req.body })`

test('a body that cannot be parsed is an error as often as it is asked for', async (t) => {
  const container = await serving(t, {
    'index.js': `module.exports = (req, res) => {
      const errors = []
      for (let i = 0; i < 3; i++) try { errors.push(typeof req.body) } catch (error) { errors.push(error.status + ' ' + error.type) }
      res.json(errors)
    }`,
  })
  const { json } = await container.request({ path: '/', method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{' })
  assert.deepEqual(json, Array(3).fill('400 entity.parse.failed'))
})

test('a body is parsed by its content type', async (t) => {
  const container = await serving(t, { 'index.js': SHOW })
  const show = async (type, body, headers = {}) => {
    const { status, json } = await container.request({ path: '/show', method: 'POST', body, headers: { ...type && { 'Content-Type': type }, ...headers } })
    return status === 200 ? json : [status, json.error.code]
  }
  assert.deepEqual(await show('application/json', '{"a":[1]}'), { body: { a: [1] }, type: 'object', same: true })
  assert.deepEqual(await show('application/problem+json; charset=utf-8', '{"ä":1}'), { body: { ä: 1 }, type: 'object', same: true })
  assert.deepEqual(await show('application/json', ''), { body: {}, type: 'object', same: true })
  assert.deepEqual(await show('application/x-www-form-urlencoded', 'a=1&b[c]=2'), { body: { a: '1', b: { c: '2' } }, type: 'object', same: true })
  assert.deepEqual(await show('text/plain', 'text'), { body: 'text', type: 'string', same: true })
  assert.equal((await show('text/plain; charset=iso-8859-1', Buffer.from([0xe4]))).body, 'ä')
  assert.equal((await show('application/octet-stream', 'raw')).type, 'buffer')
  assert.equal((await show('image/png', 'raw')).type, 'undefined')
  assert.equal((await show(undefined, 'raw')).type, 'undefined')
  assert.deepEqual((await show('application/json', zlib.gzipSync('{"z":1}'), { 'Content-Encoding': 'gzip' })).body, { z: 1 })

  assert.deepEqual(await show('application/json', '{"a":'), [400, 'BadRequest'])
  assert.deepEqual(await show('application/json', '"text"'), [400, 'BadRequest'])
  assert.deepEqual(await show('application/json; charset=latin1', '{}'), [415, 'UnsupportedMediaType'])
  assert.deepEqual(await show('application/json', 'no gzip', { 'Content-Encoding': 'gzip' }), [400, 'BadRequest'])
  assert.deepEqual(await show('application/json', '{}', { 'Content-Encoding': 'lzma' }), [415, 'UnsupportedMediaType'])
  assert.deepEqual(await show('text/plain', zlib.gzipSync('x'.repeat(LIMIT + 1)), { 'Content-Encoding': 'gzip' }), [413, 'PayloadTooLarge'])
  assert.equal(container.log, '', 'what a client did wrong is not the function’s failure')
})

test('1 MiB is parsed, one byte more is 413, told its length or not', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => res.json(req.body.length)' })
  for (const headers of [{}, { 'Transfer-Encoding': 'chunked' }]) {
    const send = (n) => container.request({ method: 'POST', body: 'x'.repeat(n), headers: { 'Content-Type': 'text/plain', ...headers } })
    assert.equal((await send(LIMIT)).json, LIMIT)
    const { status, json } = await send(LIMIT + 1)
    assert.deepEqual([status, json], [413, { error: { code: 'PayloadTooLarge', message: 'request entity too large' } }])
  }
})

test('a function that reads the stream finds all of it, whatever its type and size', async (t) => {
  const container = await serving(t, {
    'index.js': `const { createHash } = require('node:crypto')
      const sum = async (chunks) => { const h = createHash('sha256'); for await (const c of chunks) h.update(c); return h.digest('hex') }
      exports.iterate = async (req, res) => res.send(await sum(req))
      exports.later = async (req, res) => { await new Promise((r) => setTimeout(r, 20)); res.send(await sum(req)) }
      exports.data = (req, res) => { const all = []; req.on('data', (c) => all.push(c)).on('end', async () => res.send(await sum(all))) }
      exports.readable = (req, res) => { const all = []; req.on('readable', () => { let c; while ((c = req.read())) all.push(c) }).on('end', async () => res.send(await sum(all))) }
      exports.pipe = (req, res) => req.pipe(createHash('sha256').setEncoding('hex')).pipe(res)
      exports.both = async (req, res) => { const hex = await sum(req); res.send(req.body === undefined ? hex : 'body') }
      exports.ignore = (req, res) => res.send('ignored')`,
  })
  const { createHash } = require('node:crypto')
  const agent = new Agent({ keepAlive: true }) // or Node.js closes on a client that still sends
  t.after(() => agent.destroy())
  for (const type of ['application/json', 'application/octet-stream', 'image/png']) {
    for (const size of [0, 10, 100_000, LIMIT, 3 * LIMIT]) {
      const body = Buffer.alloc(size, 'abc')
      const expected = createHash('sha256').update(body).digest('hex')
      for (const headers of [{}, { 'Transfer-Encoding': 'chunked' }]) {
        for (const how of ['iterate', 'later', 'data', 'readable', 'pipe', 'both']) {
          const { text } = await container.request({ path: `/${how}`, method: 'POST', body, headers: { 'Content-Type': type, ...headers } })
          assert.equal(text, expected, `${how} ${type} ${size}`)
        }
        const { text } = await container.request({ path: '/ignore', agent, method: 'POST', body, headers: { 'Content-Type': type, ...headers } })
        assert.equal(text, 'ignored')
      }
    }
  }
})

test('a stream of unknown length flows both ways as it comes', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => { res.flushHeaders(); req.pipe(res) }' })
  for (const type of ['application/octet-stream', 'image/png']) {
    const socket = net.connect(container.port, NODE_ADDRESS)
    socket.setEncoding('utf8')
    socket.write(`POST / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\nContent-Type: ${type}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n`)
    let text = ''
    while (!text.includes('first')) text += (await once(socket, 'data'))[0]
    socket.write('4\r\nlast\r\n0\r\n\r\n')
    while (!text.endsWith('0\r\n\r\n')) text += (await once(socket, 'data'))[0]
    socket.destroy()
  }
})

test('a client that leaves in the middle of its body runs nothing and is not counted', async (t) => {
  const container = await serving(t, { 'index.js': 'let n = 0; module.exports = (req, res) => res.json(++n)' })
  const from = container.messages.length
  const socket = net.connect(container.port, NODE_ADDRESS)
  socket.write(`POST / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{`)
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
  socket.destroy()
  await container.receive('activity', { from, where: (m) => m.inFlight === 0 })
  assert.equal((await container.request({})).json, 1)
  assert.equal(container.log, '')
})
