'use strict'

// Rows of docs/functions.md that the tests of their contracts leave out.

const assert = require('node:assert/strict')
const net = require('node:net')
const test = require('node:test')

const { serving, LEASE, NODE_ADDRESS } = require('./container.js')

test('Express function: no view engine, no routing, the settings of a new application', async (t) => {
  const container = await serving(t, {
    'index.js': `module.exports = (req, res) => {
      if (req.path === '/render') return res.render('page')
      res.json([typeof req.route, req.params, req.app.get('etag'), req.app.get('views') === process.cwd() + '/views', res.app === req.app, req.app.get('x-powered-by')])
    }`,
  })
  const render = await container.request({ path: '/render' })
  assert.deepEqual([render.status, render.json.error.code], [500, 'FunctionError'])
  const { json, headers } = await container.request({ path: '/' })
  assert.deepEqual(json, ['undefined', {}, 'weak', true, true, false])
  assert.equal(headers['x-powered-by'], undefined)
})

test('web standard: what there is, and what there is not', async (t) => {
  const container = await serving(t, {
    'index.mjs': `export default { fetch(request, env, context) {
      const { pathname } = new URL(request.url)
      if (pathname === '/text') return new Response('text')
      if (pathname === '/bytes') return new Response(new Uint8Array(4))
      if (pathname === '/stream') return new Response(new Blob(['four']).stream())
      if (pathname === '/throw') { context.passThroughOnException(); throw new Error('thrown') }
      if (pathname === '/borrowed') return Request.prototype.text.call(request)
      return Response.json([env === process.env, typeof request.cf, typeof caches, Object.keys(context), typeof request.trailers, context.passThroughOnException() === undefined])
    } }`,
  })
  assert.deepEqual((await container.request({ path: '/' })).json, [true, 'undefined', 'undefined', ['waitUntil', 'passThroughOnException'], 'undefined', true])
  for (const [path, length, encoding] of [['/text', '4', undefined], ['/bytes', '4', undefined], ['/stream', undefined, 'chunked']]) {
    const { headers } = await container.request({ path })
    assert.deepEqual([headers['content-length'], headers['transfer-encoding']], [length, encoding], path)
  }
  for (const path of ['/throw', '/borrowed']) assert.equal((await container.request({ path })).status, 500, path)
})

test('limits: a head of 16 KiB, and no HTTP/2', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => res.send(String(req.get("x-long").length))' })
  assert.equal((await container.request({ headers: { 'X-Long': 'x'.repeat(15 << 10) } })).text, String(15 << 10))
  assert.equal((await container.request({ headers: { 'X-Long': 'x'.repeat(16 << 10) } })).status, 431)
  const socket = net.connect(container.port, NODE_ADDRESS)
  socket.write(`PRI * HTTP/2.0\r\nSanfran-Lease: ${LEASE}\r\n\r\nSM\r\n\r\n`)
  assert.match((await socket.toArray()).join(''), /^HTTP\/1\.1 400 /)
})
