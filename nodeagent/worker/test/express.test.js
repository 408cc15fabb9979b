'use strict'

// Contract 1: a function with Express's request and response.

const assert = require('node:assert/strict')
const querystring = require('node:querystring')
const test = require('node:test')

const { serving } = require('./container.js')

const GATEWAY = { 'X-Forwarded-For': '192.0.2.9, 198.51.100.4', 'X-Forwarded-Proto': 'https', 'X-Forwarded-Host': 'example.test' }

test('a function answers with Express’s own methods', async (t) => {
  const container = await serving(t, {
    'index.js': `module.exports = (req, res) => {
      switch (req.path) {
        case '/text': return res.send('Hello ' + req.query.name)
        case '/json': return res.status(201).json({ name: req.query.name, tags: req.query.tag })
        case '/redirect': return res.redirect('/text')
        case '/cookie': return res.cookie('a', 'b', { httpOnly: true }).type('txt').send(req.cookies.seen)
        case '/props': return res.json({ originalUrl: req.originalUrl, baseUrl: req.baseUrl, path: req.path, params: req.params,
          is: req.is('json'), accepts: req.accepts(['html', 'json']), get: req.get('X-Custom'), xhr: req.xhr })
        case '/status': return res.sendStatus(418)
        default: res.locals.a = 1; return res.append('X-A', String(res.locals.a)).end()
      }
    }`,
  })

  const text = await container.request({ path: '/text?name=world' })
  assert.equal(text.text, 'Hello world')
  assert.equal(text.headers['content-type'], 'text/html; charset=utf-8')
  assert.match(text.headers.etag, /^W\//)
  const fresh = await container.request({ path: '/text?name=world', headers: { 'If-None-Match': text.headers.etag } })
  assert.deepEqual([fresh.status, fresh.text], [304, ''])
  const head = await container.request({ method: 'HEAD', path: '/text?name=world' })
  assert.deepEqual([head.status, head.headers['content-length'], head.text], [200, '11', ''])

  const json = await container.request({ path: '/json?name=x&tag=1&tag=2' })
  assert.deepEqual([json.status, json.json], [201, { name: 'x', tags: ['1', '2'] }])
  const redirect = await container.request({ path: '/redirect' })
  assert.deepEqual([redirect.status, redirect.headers.location], [302, '/text'])
  const cookie = await container.request({ path: '/cookie', headers: { Cookie: 'seen=yes' } })
  assert.deepEqual([cookie.headers['set-cookie'], cookie.text], [['a=b; Path=/; HttpOnly'], 'yes'])
  const props = await container.request({ path: '/props?q', headers: { 'X-Custom': 'c', Accept: 'application/json' } })
  assert.deepEqual(props.json, { originalUrl: '/props?q', baseUrl: '', path: '/props', params: {}, is: null, accepts: 'json', get: 'c', xhr: false })
  assert.deepEqual([(await container.request({ path: '/status' })).text], ["I'm a Teapot"])
  assert.equal((await container.request({ path: '/' })).headers['x-a'], '1')
  assert.equal(container.log, '')
})

test('cookies are parsed when read, signed ones by the secret of the request', async (t) => {
  const container = await serving(t, {
    'index.js': `exports.set = (req, res) => { req.secret = 'a secret'; res.cookie('s', 'signed', { signed: true }).cookie('j', { a: 1 }).cookie('p', 'plain').end() }
      exports.get = (req, res) => { if (req.query.secret) req.secret = req.query.secret; res.json([req.cookies, req.signedCookies]) }`,
  })
  const set = (await container.request({ path: '/set' })).headers['set-cookie'].map((line) => line.split(';')[0])
  const get = async (path) => (await container.request({ path, headers: { Cookie: set.join('; ') } })).json
  assert.deepEqual(await get('/get?secret=a%20secret'), [{ j: { a: 1 }, p: 'plain' }, { s: 'signed' }])
  assert.deepEqual((await get('/get?secret=another'))[1], { s: false })
  const [cookies, signed] = await get('/get')
  assert.deepEqual([Object.keys(cookies), signed], [['s', 'j', 'p'], {}])
})

test('forwarded headers count on a gateway’s connection only', async (t) => {
  const container = await serving(t, {
    'index.js': 'module.exports = (req, res) => res.json([req.ip, req.protocol, req.hostname, req.ips])',
  })
  const proxied = await container.request({ headers: GATEWAY })
  assert.deepEqual(proxied.json, ['198.51.100.4', 'https', 'example.test', ['198.51.100.4']])
  const direct = await container.direct({ headers: GATEWAY })
  assert.deepEqual(direct.json, ['127.0.0.1', 'http', '127.0.0.7', []])
})

test('req.query is what querystring makes of the same text', () => {
  const { parseQuery } = require('../express.js')
  const pieces = ['a', 'b', '=', '&', '&&', '==', 'name=Vik', '__proto__', 'constructor=1', '%20', '%zz', '+', 'é', '', 'a=1&a=2', '&a=', 'toString', '0', '?', '#']
  // Linear congruential, so that a failure can be repeated.
  let seed = 1
  const next = (n) => (seed = (seed * 48271) % 2147483647) % n
  for (let i = 0; i < 20_000; i++) {
    const text = Array.from({ length: next(12) }, () => pieces[next(pieces.length)]).join('')
    assert.deepEqual(parseQuery(text), querystring.parse(text), text)
  }
  for (const text of [undefined, null, '', 'a&'.repeat(2_000), `a=${'x'.repeat(5_000)}`]) {
    assert.deepEqual(parseQuery(text), querystring.parse(text), text)
  }
})

test('request and response show themselves as those of Express do', async (t) => {
  const look = `(req, res) => res.end(JSON.stringify([req, res].map((value) => {
    const { name } = value.constructor
    return [require('util').inspect(value, { depth: 0 }).split(' ', 1)[0], name, value.constructor === require('http')[name], Object.hasOwn(Object.getPrototypeOf(value), 'constructor')]
  })))`
  const container = await serving(t, { 'index.js': `module.exports = ${look}` })
  const express = await serving(t, { 'index.js': `module.exports = require(${JSON.stringify(require.resolve('express'))})().use(${look})` })
  const theirs = (await express.request({})).json
  assert.deepEqual(theirs.map(([shown]) => shown), ['IncomingMessage', 'ServerResponse'])
  assert.deepEqual((await container.request({})).json, theirs)
})
