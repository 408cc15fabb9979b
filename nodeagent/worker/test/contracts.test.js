'use strict'

// What a module may export, and where it is found.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { serving, LEASE, NODE_ADDRESS } = require('./container.js')

test('an object of functions: the first segment of the path chooses', async (t) => {
  const container = await serving(t, {
    'index.js': `exports.a = (req, res) => res.json([req.url, req.baseUrl, req.originalUrl, req.query])
      exports['b c'] = async (req, res) => res.send('bc')
      exports.answer = 42
      exports['ü/?#'] = (req, res) => res.json([req.url, req.baseUrl])
      exports.inside = { f(req, res) { res.send('inside') } }
      exports.Class = class {}
      Object.defineProperty(exports, '__proto__', { value: (req, res) => res.send('own __proto__'), enumerable: true })
      Object.defineProperty(exports, 'hidden', { value: (req, res) => res.send('hidden') })
      Object.setPrototypeOf(exports, { inherited(req, res) { res.send('inherited') } })`,
  })
  assert.deepEqual((await container.request({ path: '/a/x/y?q=1' })).json, ['/x/y?q=1', '/a', '/a/x/y?q=1', { q: '1' }])
  assert.deepEqual((await container.request({ path: '/a?q=1' })).json, ['/?q=1', '/a', '/a?q=1', { q: '1' }])
  assert.equal((await container.request({ path: '/b%20c' })).text, 'bc')
  assert.equal((await container.request({ path: '/%61' })).json[1], '/%61')
  assert.deepEqual((await container.request({ path: '/%C3%BC%2F%3F%23/x' })).json, ['/x', '/%C3%BC%2F%3F%23'])
  assert.equal((await container.request({ path: '/__proto__' })).text, 'own __proto__')
  for (const path of ['/', '//a', '/answer', '/toString', '/constructor', '/hasOwnProperty', '/%5F_defineGetter__', '/A', '/inside', '/inside/f', '/inherited', '/hidden', '/Class']) {
    const { status, json } = await container.request({ path })
    assert.deepEqual([status, json.error.code], [404, 'FunctionNotFound'], path)
  }
  assert.equal((await container.request({ path: '/%zz' })).status, 400)
})

const MODULES = {
  'export default (req, res)': { 'index.mjs': 'export default (req, res) => res.send("ok " + req.query.q)' },
  'named exports': { 'index.mjs': 'export const f = (req, res) => res.send("ok " + req.query.q)' },
  'default object of functions': { 'index.mjs': 'export default { f(req, res) { res.send("ok " + req.query.q) } }' },
  'compiled default export': { 'index.js': 'exports.__esModule = true; exports.default = (req, res) => res.send("ok " + req.query.q)' },
  'type module': { 'package.json': '{"type":"module"}', 'index.js': 'import "node:fs"; export default (req, res) => res.send("ok " + req.query.q)' },
  'top-level await': { 'index.mjs': 'const ok = await new Promise((r) => setTimeout(r, 20, "ok ")); export default (req, res) => res.send(ok + req.query.q)' },
  'ES syntax in .js, with await': { 'package.json': '{}', 'index.js': 'const ok = await "ok "; export default (req, res) => res.send(ok + req.query.q)' },
  'TypeScript': { 'index.ts': 'export default (req: any, res: any): void => { res.send("ok " + (req.query.q as string)) }' },
  'main': { 'package.json': '{"main":"lib/start"}', 'index.js': 'throw 1', 'lib/start.js': 'module.exports = (req, res) => res.send("ok " + req.query.q)' },
  'index.js before function.js': { 'function.js': 'throw 1', 'index.js': 'module.exports = (req, res) => res.send("ok " + req.query.q)' },
  'function.js': { 'function.js': 'module.exports = require("./node_modules/own").f', 'node_modules/own/index.js': 'exports.f = (req, res) => res.send("ok " + req.query.q)' },
  'export default (request) => Response': { 'index.mjs': 'export default (request) => new Response("ok " + new URL(request.url).searchParams.get("q"))' },
  'export default { fetch }': { 'index.mjs': 'export default { n: "ok ", fetch(request) { return new Response(this.n + new URL(request.url).searchParams.get("q")) } }' },
  'module.exports = { fetch }': { 'index.js': 'module.exports = { async fetch(request) { return new Response("ok " + new URL(request.url).searchParams.get("q")) } }' },
}

for (const [name, files] of Object.entries(MODULES)) {
  test(`loads: ${name}`, async (t) => {
    const container = await serving(t, files)
    const answer = await container.request({ path: '/f?q=1' })
    assert.deepEqual([answer.status, answer.text], [200, 'ok 1'])
  })
}

test('an exported Express application keeps its own settings, parsers and 404', async (t) => {
  const container = await serving(t, {
    'index.js': `const express = require(${JSON.stringify(require.resolve('express'))})
      const app = module.exports = express()
      app.set('trust proxy', true)
      app.post('/body', express.json(), (req, res) => res.set('Sanfran-Refused', 'n').json([req.body, req.ip, req.app === app, res.app === app]))
      app.get('/throw', () => { throw Object.assign(new Error('short and stout'), { status: 418 }) })`,
  })
  const answer = await container.request({ path: '/body', method: 'POST', headers: { 'Content-Type': 'application/json', 'X-Forwarded-For': '192.0.2.1' }, body: '{"a":1}' })
  assert.deepEqual(answer.json, [{ a: 1 }, '192.0.2.1', true, true])
  assert.equal(answer.headers['x-powered-by'], 'Express')
  assert.equal(answer.headers['sanfran-refused'], undefined)
  assert.match((await container.request({ path: '/none' })).text, /Cannot GET \/none/)
  assert.equal((await container.request({ path: '/throw' })).status, 418)
})

test('an exported Express router is called as it is, and what it passes on is not found', async (t) => {
  const router = `require(${JSON.stringify(require.resolve('express'))}).Router()
    .get('/', (req, res) => res.send('root')).get('/route', (req, res, next) => next('route')).get('/router', (req, res, next) => next('router'))
    .post('/body', require(${JSON.stringify(require.resolve('express'))}).json(), (req, res) => res.json(req.body)).get('/throw', () => { throw new Error('thrown') })`
  for (const [code, base] of [[`module.exports = ${router}`, ''], [`exports.named = ${router}`, '/named']]) {
    const container = await serving(t, { 'index.js': code })
    assert.equal((await container.request({ path: `${base}/` })).text, 'root')
    assert.deepEqual((await container.request({ path: `${base}/body`, method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"a":1}' })).json, { a: 1 })
    for (const path of ['/none', '/route', '/router']) {
      const { status, json } = await container.request({ path: base + path })
      assert.deepEqual([status, json.error.code], [404, 'NotFound'], path)
    }
    assert.equal(container.log, '')
    assert.equal((await container.request({ path: `${base}/throw` })).status, 500)
    await container.logged(/thrown\n/)
  }
})

test('fetch: host and path of the URL are those of the request, whatever is in them', async (t) => {
  const container = await serving(t, { 'index.mjs': 'export default { fetch: (request) => new Response(request.url) }' })
  const url = async (target, host) => {
    const socket = net.connect(container.port, NODE_ADDRESS)
    socket.setEncoding('utf8')
    socket.end(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\nSanfran-Lease: ${LEASE}\r\nConnection: close\r\n\r\n`)
    let text = ''
    for await (const chunk of socket) text += chunk
    return text.startsWith('HTTP/1.1 200 ') ? /http:\/\/[^\r\n]*/.exec(text)[0] : text.slice(9, 12)
  }
  assert.equal(await url('//evil/x?a', 'good.test:8080'), 'http://good.test:8080//evil/x?a')
  assert.equal(await url('/\\evil/x', 'good.test'), 'http://good.test//evil/x')
  assert.equal(await url('//evil/x', ''), 'http://localhost//evil/x')
  assert.equal(await url('http://evil/x?a', 'good.test'), 'http://good.test/x?a')
  assert.equal(await url('http://evil?a', 'good.test'), 'http://good.test/?a')
  assert.equal(await url('/x', '[::1]:80'), 'http://[::1]/x')
  for (const host of ['good.test/admin?', 'good.test#', 'a@evil', '/', 'a\\b']) assert.equal(await url('/x', host), '400', host)
})

test('fetch: request and response pass whole, in both directions as streams', async (t) => {
  const container = await serving(t, {
    'index.mjs': `export default { async fetch(request, env, context) {
      const { pathname } = new URL(request.url)
      if (pathname === '/echo') return new Response(request.body, { status: 201, headers: { 'Sanfran-Refused': 'n' } })
      if (pathname === '/see') return Response.json([request.method, request.url, [...request.headers.keys()], env.GREETING])
      if (pathname === '/cookies') { const headers = new Headers(); headers.append('Set-Cookie', 'a=1'); headers.append('Set-Cookie', 'b=2'); return new Response(null, { status: 204, headers }) }
      if (pathname === '/wrong') return 'text'
      if (pathname === '/throw') throw new Error('thrown by fetch')
      if (pathname === '/wait') { context.waitUntil(new Promise((r) => setTimeout(r, 300))); return new Response('now') }
    } }`,
  }, { env: { GREETING: 'hi' } })
  const see = await container.request({ path: '/see?a', headers: { 'X-Forwarded-Proto': 'https', Host: 'example.test' } })
  assert.deepEqual(see.json, ['GET', 'https://example.test/see?a', ['connection', 'host', 'x-forwarded-proto'], 'hi'])
  const cookies = await container.request({ path: '/cookies' })
  assert.deepEqual([cookies.status, cookies.headers['set-cookie']], [204, ['a=1', 'b=2']])
  assert.deepEqual([(await container.request({ path: '/wrong' })).status, (await container.request({ path: '/throw' })).status], [500, 500])
  await container.logged(/not a Response[^]*thrown by fetch/)

  const big = Buffer.alloc(3 << 20, 'x')
  const echo = await container.request({ path: '/echo', method: 'POST', body: big })
  assert.ok(echo.status === 201 && echo.bytes.equals(big))
  assert.equal(echo.headers['sanfran-refused'], undefined)

  // The first byte comes back before the last one is sent.
  const socket = net.connect(container.port, NODE_ADDRESS)
  socket.setEncoding('utf8')
  socket.write(`POST /echo HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n`)
  let text = ''
  while (!text.includes('first')) text += (await once(socket, 'data'))[0]
  socket.end('4\r\nlast\r\n0\r\n\r\n')
  while (!text.includes('last')) text += (await once(socket, 'data'))[0]
  socket.destroy()

  const from = container.messages.length
  assert.equal((await container.request({ path: '/wait' })).text, 'now')
  const idle = await container.receive('activity', { from, where: (m) => m.inFlight === 0 })
  assert.ok(idle)
})

test('fetch: a Response of another class than Node\'s, as packages bring them', async (t) => {
  const container = await serving(t, {
    'index.mjs': `import { Readable } from 'node:stream'
      // As undici's, and as node-fetch's: a stream of Node, headers without getSetCookie.
      const kinds = {
        standard: (body) => ({ status: 202, statusText: 'Taken', headers: new Headers([['Set-Cookie', 'a=1'], ['Set-Cookie', 'b=2'], ['X-Kind', 'standard']]), body: new Response(body).body }),
        node: (body) => ({ status: 202, statusText: 'Taken', body: Readable.from([Buffer.from(body)]),
          headers: { *[Symbol.iterator]() { yield ['set-cookie', 'a=1, b=2']; yield ['x-kind', 'node'] }, raw: () => ({ 'set-cookie': ['a=1', 'b=2'] }) } }),
      }
      export default (request) => kinds[new URL(request.url).searchParams.get('kind')](request.method)`,
  })
  for (const kind of ['standard', 'node']) {
    for (const [method, body] of [['GET', 'GET'], ['HEAD', '']]) {
      const { status, message, headers, text } = await container.request({ path: `/?kind=${kind}`, method })
      assert.deepEqual([status, message, headers['x-kind'], headers['set-cookie'], text], [202, 'Taken', kind, ['a=1', 'b=2'], body])
    }
  }
})

test('a handler of the other kind is told so, and its client has an answer', async (t) => {
  const RETURNED = /TypeError: a function \(req, res\) => … gave a Response, which is not sent \(a handler \(request\) => Response is export default/
  const WRAPPED = /is not a function[^]*declares no parameters[^]*export default \(req, res\) => handler\(req, res\)\n$/
  const cases = {
    'a Response': [{ 'index.js': 'module.exports = () => new Response("x")' }, 500, RETURNED],
    'a promise of one': [{ 'index.js': 'module.exports = async (request) => new Response("x")' }, 500, RETURNED],
    'the fetch of an application': [{ 'index.js': `const { Hono } = require(${JSON.stringify(require.resolve('hono'))}); const app = new Hono(); app.get("/", (c) => c.text("x")); module.exports = app.fetch` }, 500, RETURNED],
    'with env': [{ 'index.mjs': 'export default async (request, env) => new Response("x")' }, 500, RETURNED],
    'one of fetch': [{ 'index.js': 'module.exports = (request) => fetch("data:text/plain,x")' }, 500, RETURNED],
    'by name': [{ 'index.js': 'exports.f = (request) => new Response("x")' }, 500, RETURNED],
    'wrapped': [{ 'index.mjs': 'const handler = (req, res) => res.send("x"); export default (...args) => handler(...args)' }, 500, WRAPPED],
    'wrapped, async': [{ 'index.mjs': 'const handler = async (req, res) => { await 1; res.send("x") }; export default function () { return handler.apply(this, arguments) }' }, 500, WRAPPED],
    'a mistake of its own': [{ 'index.mjs': 'export default () => null.x' }, 500, /^TypeError: Cannot read[^]*$(?<!declares no parameters[^]*)/],
    'answered by res': [{ 'index.js': 'module.exports = (req, res) => { res.send("x"); return new Response("y") }' }, 200, /^$/],
    'answered later': [{ 'index.js': 'module.exports = async (req, res) => { setTimeout(() => res.send("x"), 20); return fetch("data:text/plain,y") }' }, 200, /^$/],
    'answered later by a wrapped one': [{ 'index.js': 'const f = async (req, res) => { setTimeout(() => res.send("x"), 20); return fetch("data:text/plain,y") }; module.exports = (...args) => f(...args)' }, 200, /^$/],
    'what throws when it is looked at': [{ 'index.js': `const hostile = (then) => new Proxy({ then }, { get(t, k) { if (k === 'then') return t.then; throw 1 }, has() { throw 2 }, getPrototypeOf() { throw 3 } })
      module.exports = (req, res) => { setTimeout(() => res.send("x"), 20); return req.path === '/' ? hostile((done) => done(hostile())) : hostile() }` }, 200, /^$/],
    'what only looks like one': [{ 'index.js': 'module.exports = async (req, res) => { setTimeout(() => res.send("x"), 20); return { status: 200, headers: {}, body: "y" } }' }, 200, /^$/],
  }
  for (const [name, [files, status, log]] of Object.entries(cases)) {
    const container = await serving(t, files)
    const answer = await container.request({ path: name === 'by name' ? '/f' : '/' })
    assert.deepEqual([answer.status, status === 200 ? answer.text : answer.json.error.code], [status, status === 200 ? 'x' : 'FunctionError'], name)
    await container.logged(log)
    if (status === 200) assert.equal((await container.request({ path: '/other' })).text, 'x', name)
  }
})
