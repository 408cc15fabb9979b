'use strict'

// Contract 3: what functions of the web standard get and give.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')
const path = require('node:path')
const test = require('node:test')
const zlib = require('node:zlib')

const { serving, LEASE, NODE_ADDRESS } = require('./container.js')

const PROPERTIES = { 'index.mjs': fs.readFileSync(path.join(__dirname, 'fetch', 'properties.mjs'), 'utf8') }

test('a Request is as Node’s own in everything that can be done with it', async (t) => {
  const container = await serving(t, PROPERTIES)
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const bodies = [undefined, undefined, '{"a":[1]}', 'text ü', 'a=1&b=2', '\ufeff{}', '--b\r\nContent-Disposition: form-data; name="f"; filename="n.txt"\r\n\r\nfile\r\n--b--\r\n']
  const types = [undefined, 'application/json', 'text/plain;charset=utf-8', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=b']
  for (let seed = 1; seed <= 600; seed++) {
    const body = bodies[seed % bodies.length]
    const type = types[seed % types.length]
    const method = body === undefined ? ['GET', 'HEAD', 'DELETE', 'POST'][seed % 4] : ['POST', 'PUT', 'PATCH'][seed % 3]
    if (method === 'HEAD') continue // shows nothing
    const length = body === undefined ? method === 'POST' ? { 'content-length': '0' } : {} : { 'content-length': String(Buffer.byteLength(body)) }
    const headers = { 'x-one': '1', ...type && { 'content-type': type }, ...length, host: 'example.test', connection: 'keep-alive' }
    const model = encodeURIComponent(JSON.stringify({ method, headers, body }))
    const { text } = await container.request({ path: `/request?seed=${seed}&model=${model}`, method, headers, body, agent })
    assert.equal(text, 'same')
  }
})

test('a Response is as Node’s own in everything that can be done with it', async (t) => {
  const container = await serving(t, PROPERTIES)
  for (let seed = 1; seed < 4000; seed += 500) {
    assert.equal((await container.request({ path: `/responses?seed=${seed}&to=${seed + 500}` })).text, 'same')
  }
})

test('a Response is sent as one that Node’s own class made', async (t) => {
  const container = await serving(t, PROPERTIES)
  for (let seed = 1; seed <= 300; seed++) {
    for (const method of ['GET', 'HEAD']) {
      const [ours, theirs] = await Promise.all(['', '&native'].map((native) => container.request({ path: `/send?seed=${seed}${native}`, method })))
      const seen = ({ status, message, bytes, headers: { date, connection, 'content-length': length, 'transfer-encoding': encoding, ...headers } }) => ({ status, message, bytes: bytes.toString('hex'), headers })
      assert.deepEqual(seen(ours), seen(theirs), `seed ${seed}`)
      if (ours.headers['content-length'] !== undefined && method === 'GET') assert.equal(Number(ours.headers['content-length']), theirs.bytes.length)
    }
  }
})

test('subclasses, statics and foreign kinds of Response are answered', async (t) => {
  const container = await serving(t, {
    'index.mjs': `class Page extends Response { constructor(text) { super(text, { headers: { 'Content-Type': 'text/html' } }) } get mine() { return 1 } }
      const foreign = { [Symbol.toStringTag]: 'Response', status: 203, statusText: '', headers: new Headers({ x: 'f' }), body: new Blob(['foreign']).stream() }
      const kept = new Response('kept')
      const ways = {
        page: () => new Page('<p>'), instance: () => Response.json([new Page('') instanceof Response, new Page('') instanceof Page, new Page('').mine, Response.json(1) instanceof Response, Response.json(1).constructor === Response]),
        json: () => Response.json({ a: 1 }, { status: 201, headers: { x: 'j' } }), redirect: () => Response.redirect('https://example.test/x', 307), error: () => Response.error(),
        none: () => undefined, promise: async () => new Response('later'), thenable: () => ({ then: (done) => done(new Response('then')) }), foreign: () => foreign,
        kept: () => kept, used: async () => { const r = new Response('x'); await r.text(); return r }, cloned: () => { const r = new Response('whole'); r.clone(); return r }, half: () => { const r = new Response('whole'); return r.clone() },
        looked: () => { const r = new Response('looked'); r.body; r.headers.set('x', 'l'); return r }, fetched: () => fetch('data:text/plain,fetched'), changed: () => { const r = new Response('x'); r.headers.delete('content-type'); return r },
        throwing: () => new Response(new ReadableStream({ pull() { throw new Error('the stream broke') } })),
        breaking: () => { let n = 0; return new Response(new ReadableStream({ async pull(c) { if (n++ === 0) return c.enqueue(Buffer.from('x')); await new Promise(setImmediate); throw new Error('broke later') } })) },
        cancelled: async (request) => { await request.body.cancel(); return new Response('cancelled') }, many: () => new Response(null, { headers: [['Set-Cookie', 'a=1'], ['Set-Cookie', 'b=2']] }),
      }
      export default (request) => ways[new URL(request.url).pathname.slice(1)](request)`,
  })
  const see = async (name) => {
    const { status, text, headers } = await container.request({ path: `/${name}` })
    return [status, text, headers['content-type']]
  }
  assert.deepEqual(await see('page'), [200, '<p>', 'text/html'])
  assert.deepEqual(JSON.parse((await see('instance'))[1]), [true, true, 1, true, true])
  assert.deepEqual(await see('json'), [201, '{"a":1}', 'application/json'])
  assert.deepEqual((await container.request({ path: '/redirect' })).headers.location, 'https://example.test/x')
  for (const name of ['error', 'none', 'used', 'throwing']) assert.equal((await see(name))[0], 500, name)
  assert.equal((await see('promise'))[1], 'later')
  assert.equal((await see('thenable'))[1], 'then')
  assert.deepEqual((await see('foreign')).slice(0, 2), [203, 'foreign'])
  assert.deepEqual([(await see('kept'))[1], (await see('kept'))[0]], ['kept', 500], 'a body is read once')
  assert.deepEqual([(await see('cloned'))[1], (await see('half'))[1]], ['whole', 'whole'])
  assert.equal((await see('looked'))[1], 'looked')
  assert.equal((await see('fetched'))[1], 'fetched')
  assert.deepEqual(await see('changed'), [200, 'x', undefined])
  assert.deepEqual((await container.request({ path: '/many' })).headers['set-cookie'], ['a=1', 'b=2'])
  assert.equal((await container.request({ path: '/cancelled', method: 'POST', body: Buffer.alloc(1 << 20) })).text, 'cancelled')
  await assert.rejects(container.request({ path: '/breaking' }), { code: 'ECONNRESET' })
})

test('a request can be passed on, whole or changed, and its answer passed back', async (t) => {
  const upstream = http.createServer(async (req, res) => {
    const chunks = await req.toArray()
    res.setHeader('X-Up', 'stream').end(`${req.method} ${req.url} ${req.headers['x-added']} ${Buffer.concat(chunks)}`)
  }).listen(0, NODE_ADDRESS)
  await once(upstream, 'listening')
  t.after(() => upstream.close())
  const container = await serving(t, {
    'index.mjs': `export default (request) => {
      const { pathname, host } = new URL(request.url)
      if (pathname === '/whole') return fetch(request)
      if (pathname === '/changed') return fetch(new Request('http://' + host + '/other', request), { headers: { 'X-Added': 'a' } })
      request.headers.set('X-Added', 'b')
      return fetch(new Request(request))
    }`,
  })
  const send = async (path) => {
    const { text, headers } = await container.request({ path, method: 'POST', body: 'body', headers: { Host: `${NODE_ADDRESS}:${upstream.address().port}` } })
    return [text, headers['x-up']]
  }
  assert.deepEqual(await send('/whole'), ['POST /whole undefined body', 'stream'])
  assert.deepEqual(await send('/changed'), ['POST /other a body', 'stream'])
  assert.deepEqual(await send('/added'), ['POST /added b body', 'stream'])
})

test('HEAD has the headers of GET and no body; statuses without a body have none', async (t) => {
  const container = await serving(t, {
    'index.mjs': `export default { fetch(request) {
      const { searchParams } = new URL(request.url)
      if (searchParams.has('stream')) return new Response(new ReadableStream({ start(c) { c.enqueue(new Uint8Array(9)) }, cancel() { console.log('cancelled') } }))
      return new Response(searchParams.has('status') ? null : 'four', { status: Number(searchParams.get('status') ?? 200) })
    } }`,
  })
  const head = await container.request({ method: 'HEAD', path: '/' })
  assert.deepEqual([head.text, head.headers['content-length'], head.headers['content-type']], ['', '4', 'text/plain;charset=UTF-8'])
  assert.equal((await container.request({ method: 'HEAD', path: '/?stream' })).text, '')
  await container.logged(/cancelled/)
  for (const status of [204, 205, 304]) {
    const { status: got, text, headers } = await container.request({ path: `/?status=${status}` })
    assert.deepEqual([got, text, headers['transfer-encoding'], headers['content-length']], [status, '', undefined, status === 205 ? '0' : undefined])
  }
})

test('request.signal aborts when the client has gone, and not otherwise', async (t) => {
  const container = await serving(t, {
    'index.mjs': `export default { async fetch(request) {
      const { pathname } = new URL(request.url)
      if (pathname === '/done') { request.signal.addEventListener('abort', () => console.log('wrongly aborted')); return new Response('done') }
      console.log(pathname)
      const signal = pathname === '/wait' ? request.signal : pathname === '/again' ? new Request(request).signal : request.clone().signal
      await new Promise((resolve) => signal.addEventListener('abort', resolve))
      console.log(pathname, signal.reason.name, request.signal.aborted)
      return new Response()
    } }`,
  })
  assert.equal((await container.request({ path: '/done' })).text, 'done')
  for (const name of ['/wait', '/again', '/clone']) {
    const socket = net.connect(container.port, NODE_ADDRESS)
    socket.write(`GET ${name} HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
    await container.logged(new RegExp(`^${name}$`, 'm'))
    socket.destroy()
    await container.logged(new RegExp(`^${name} AbortError true$`, 'm'))
  }
  assert.doesNotMatch(container.log, /wrongly/)
})

test('a client that leaves in the middle fails the read of the body and cancels that of the answer', async (t) => {
  const container = await serving(t, {
    'index.mjs': `export default { async fetch(request) {
      if (request.method === 'GET') return new Response(new ReadableStream({ pull(c) { c.enqueue(new Uint8Array(65536)) }, cancel(reason) { console.log('cancelled:', reason.message) } }))
      console.log('reading')
      await request.text().catch((error) => { console.log('failed:', error.message, request.bodyUsed) })
      return new Response()
    } }`,
  })
  for (const [head, first, last] of [['POST / HTTP/1.1\r\nContent-Length: 9\r\n', /reading/, /failed: aborted true/], ['GET / HTTP/1.1\r\n', null, /cancelled: the client is gone/]]) {
    const socket = net.connect(container.port, NODE_ADDRESS)
    socket.write(`${head}Host: a\r\nSanfran-Lease: ${LEASE}\r\n\r\nx`)
    if (first) await container.logged(first)
    else await once(socket, 'data')
    socket.destroy()
    await container.logged(last)
  }
})

test('forms and large bodies pass; a slow reader holds the writer', async (t) => {
  const container = await serving(t, {
    'index.mjs': `let pulled = 0
      export default { async fetch(request) {
        const { pathname } = new URL(request.url)
        if (pathname === '/form') { const form = await request.formData(); return Response.json([form.get('a'), form.get('f').name, await form.get('f').text()]) }
        if (pathname === '/size') return Response.json((await request.bytes()).length)
        if (pathname === '/pulled') return Response.json(pulled)
        return new Response(new ReadableStream({ pull(c) { pulled++; if (pulled > 4096) c.close(); else c.enqueue(new Uint8Array(65536)) } }))
      } }`,
  })
  const form = new FormData()
  form.set('a', '1')
  form.set('f', new File(['content'], 'näme.txt'))
  const encoded = new Response(form)
  const sent = { path: '/form', method: 'POST', body: Buffer.from(await encoded.arrayBuffer()), headers: { 'Content-Type': encoded.headers.get('content-type') } }
  assert.deepEqual((await container.request(sent)).json, ['1', 'näme.txt', 'content'])
  assert.equal((await container.request({ path: '/size', method: 'POST', body: Buffer.alloc(8 << 20) })).json, 8 << 20)

  const socket = net.connect(container.port, NODE_ADDRESS)
  socket.write(`GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await once(socket, 'readable') // and read nothing: 256 MB wait
  let before = -1
  for (let now = 0; now !== before; before = now, now = (await container.request({ path: '/pulled' })).json);
  assert.ok(before < 1024, `${before} of 4096 chunks were made for a client that reads none`)
  let size = 0
  for await (const chunk of socket) size += chunk.length
  assert.ok(size > 4096 * 65536)
})

test('a body that nobody reads to its end ends nothing else', async (t) => {
  const container = await serving(t, {
    'index.mjs': `const form = (size = 1) => { const f = new FormData(); f.set('a', new File([new Uint8Array(size)], 'f')); return f }
      class Page extends Response {}
      const ways = {
        plain: () => new Response(form()), empty: () => new Response(new FormData()), typed: () => new Response(form(), { headers: { 'Content-Type': 'x/y' } }),
        subclass: () => new Page(form()), copied: () => { const r = new Response(form()); return new Response(r.body, r) },
        cloned: () => { const r = new Response(form()); r.clone(); return r }, both: () => { const r = new Response(form()); r.clone().body.cancel(); return r },
        text: () => { const r = new Response('text'); r.clone(); return r }, stream: () => { const r = new Response(new Blob(['blob']).stream()); r.clone(); return r },
        failing: () => new Response(new ReadableStream({ cancel() { throw new Error('from cancel') } })),
        stuck: () => new Response(new ReadableStream({ cancel: () => new Promise(() => {}) })),
        large: () => new Response(form(64 << 20)),
      }
      export default (request) => ways[new URL(request.url).pathname.slice(1)]()`,
  })
  for (const name of ['plain', 'empty', 'typed', 'subclass', 'copied', 'cloned', 'both', 'text', 'stream', 'failing', 'stuck']) {
    const { status, text } = await container.request({ method: 'HEAD', path: `/${name}` })
    assert.deepEqual([status, text], [200, ''], name)
  }
  await container.logged(/from cancel/)
  assert.match((await container.request({ path: '/plain' })).text, /name="a"; filename="f"/)
  const socket = net.connect(container.port, NODE_ADDRESS)
  socket.write(`GET /large HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n`)
  await once(socket, 'data')
  socket.destroy()
  await container.receive('activity', { from: container.messages.length, where: (m) => m.inFlight === 0 })
  assert.equal((await container.request({ path: '/text' })).text, 'text')
})

test('what fetch has decoded goes out plain, and no header of the other connection', async (t) => {
  const encodings = { gzip: zlib.gzipSync, br: zlib.brotliCompressSync, deflate: zlib.deflateSync, zstd: zlib.zstdCompressSync }
  const upstream = http.createServer((req, res) => {
    const { pathname, searchParams } = new URL(req.url, 'http://a')
    const encoding = searchParams.get('encoding')
    res.setHeader('ETag', '"e"').setHeader('Vary', 'accept-encoding').setHeader('Content-Type', 'text/plain').setHeader('X-Named', 'n').setHeader('Proxy-Authenticate', 'Basic')
    res.setHeader('Connection', 'close, x-named').setHeader('Keep-Alive', 'timeout=9')
    if (encoding) res.setHeader('Content-Encoding', encoding)
    if (pathname === '/unchanged') return res.writeHead(304).end()
    const bytes = (encodings[encoding] ?? Buffer.from)('decoded')
    res.setHeader('Content-Length', bytes.length).end(bytes)
  }).listen(0, NODE_ADDRESS)
  await once(upstream, 'listening')
  t.after(() => upstream.close())
  const container = await serving(t, {
    'index.mjs': `import { gzipSync } from 'node:zlib'
      class Page extends Response {}
      const ways = {
        itself: (r) => r, copy: (r) => new Response(r.body, r), headers: (r) => new Response(r.body, { status: r.status, headers: r.headers }),
        ownHeaders: (r) => new Response(r.body, { headers: Object.fromEntries(r.headers) }), text: async (r) => new Response(await r.text(), r), bytes: async (r) => new Response(await r.arrayBuffer(), { headers: r.headers }),
        subclass: (r) => new Page(r.body, r), clone: (r) => r.clone(), copyOfClone: (r) => { const c = r.clone(); return new Response(c.body, c) }, copyBeside: (r) => { r.clone(); return new Response(r.body, r) },
        again: async (r) => { const mine = new Response(gzipSync(await r.text()), r); mine.headers.set('content-encoding', 'gzip'); return mine },
        own: () => new Response(gzipSync('decoded'), { headers: { 'Content-Encoding': 'gzip', Connection: 'close, X-Mine', 'X-Mine': 'm', 'Transfer-Encoding': 'chunked', Upgrade: 'h2c' } }),
        seen: (r) => Response.json([r.headers.get('content-encoding'), r.headers.get('connection')]),
      }
      export default async (request) => {
        const { pathname, searchParams } = new URL(request.url)
        const r = await fetch(searchParams.get('up'), { method: request.method })
        return ways[pathname.slice(1)](r)
      }`,
  })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const get = (way, { target = '/', encoding = 'gzip', method = 'GET' } = {}) => {
    const up = `http://${NODE_ADDRESS}:${upstream.address().port}${target}?encoding=${encoding}`
    return container.request({ path: `/${way}?up=${encodeURIComponent(up)}`, method, agent })
  }
  const plain = (answer, what) => {
    const { 'x-named': named, 'keep-alive': keepAlive, connection, 'proxy-authenticate': authenticate } = answer.headers
    assert.deepEqual([answer.headers['content-encoding'], named, keepAlive, authenticate, connection], [undefined, undefined, undefined, undefined, 'keep-alive'], what)
    assert.equal(answer.headers.etag, '"e"', what)
  }
  for (const way of ['itself', 'copy', 'headers', 'ownHeaders', 'text', 'bytes', 'subclass', 'clone', 'copyOfClone', 'copyBeside']) {
    const answer = await get(way)
    assert.equal(answer.text, 'decoded', way)
    plain(answer, way)
    if (way === 'ownHeaders') continue // nothing tells here what they are of if there is no body
    const head = await get(way, { method: 'HEAD' })
    plain(head, way)
    assert.notEqual(head.headers['content-length'], String(zlib.gzipSync('decoded').length), way)
    if (way !== 'text' && way !== 'bytes') plain(await get(way, { target: '/unchanged' }), way)
  }
  for (const encoding of Object.keys(encodings)) {
    const answer = await get('itself', { encoding })
    assert.deepEqual([answer.text, answer.headers['content-encoding']], ['decoded', undefined], encoding)
  }
  // What it has not decoded, and what is encoded again, says so.
  const other = await get('itself', { encoding: 'x-other' })
  assert.deepEqual([other.text, other.headers['content-encoding'], other.headers['content-length']], ['decoded', 'x-other', '7'])
  const none = await get('itself', { encoding: '' })
  assert.deepEqual([none.text, none.headers['content-length'], none.headers['x-named']], ['decoded', '7', undefined])
  for (const way of ['again', 'own']) {
    const { bytes, headers } = await get(way)
    assert.deepEqual([String(zlib.gunzipSync(bytes)), headers['content-encoding'], headers['x-mine'], headers.upgrade, headers.connection], ['decoded', 'gzip', undefined, undefined, 'keep-alive'], way)
    assert.equal(headers['content-length'], String(bytes.length), way)
  }
  assert.deepEqual((await get('seen')).json, ['gzip', 'close, x-named'], 'the function sees what came')
})

test('waitUntil holds the container, and what fails there is logged', async (t) => {
  const container = await serving(t, {
    'index.mjs': `let done
      export default { fetch(request, env, { waitUntil }) {
        if (new URL(request.url).pathname === '/done') { done(); return new Response('done') }
        waitUntil(new Promise((resolve, reject) => { done = () => reject(new Error('in the background')) })); waitUntil(5)
        return new Response('now')
      } }`,
  })
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
  t.after(() => agent.destroy())
  const inFlight = async () => {
    const from = container.messages.length
    container.send({ type: 'ping' })
    return (await container.receive('activity', { from })).inFlight
  }
  assert.equal((await container.request({ agent })).text, 'now')
  assert.equal(await inFlight(), 1)
  container.send({ type: 'drain', graceMs: 30_000 })
  for (let i = 0; i < 2; i++) assert.equal(await inFlight(), 1)
  assert.ok(!container.messages.some((m) => m.type === 'drained'), 'drained while the work goes on')
  assert.equal((await container.direct({ path: '/done' })).text, 'done')
  await container.receive('drained')
  await container.logged(/in the background/)
  assert.equal(await inFlight(), 0)
})
