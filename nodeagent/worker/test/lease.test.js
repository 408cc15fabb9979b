'use strict'

// I2 right function: what is not for this lease is refused before function
// code, and SanFran's headers pass in neither direction.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { Container, serving, request, LEASE, NONCE, NODE_ADDRESS, POD_ADDRESS } = require('./container.js')

const COUNTS = { 'index.js': 'let n = 0; module.exports = (req, res) => res.json(++n)' }

test('a request without this lease is refused and runs nothing', async (t) => {
  const container = await serving(t, COUNTS)
  const to = { host: NODE_ADDRESS, port: container.port }
  const wrong = [undefined, '', LEASE.slice(1), LEASE.slice(0, -1) + '0', LEASE + '0', LEASE.toUpperCase(), [LEASE, LEASE], [LEASE, 'x'], `${LEASE}, ${LEASE}`]
  for (const lease of wrong) {
    for (const method of ['GET', 'POST']) {
      const answer = await request({ ...to, method, headers: lease === undefined ? {} : { 'Sanfran-Lease': lease }, body: method === 'POST' ? 'x' : undefined })
      assert.deepEqual([answer.status, answer.headers['sanfran-refused'], answer.text], [421, NONCE, ''], `lease ${lease}`)
    }
  }
  assert.equal((await container.request({ headers: { 'sANFRAN-lEASE': LEASE } })).json, 1, 'refused requests ran')
})

test('a direct connection needs no lease, also as an IPv4-mapped address', async (t) => {
  for (const host of ['0.0.0.0', '::']) {
    const container = await serving(t, COUNTS, { host })
    assert.equal((await container.direct({})).json, 1)
    assert.equal((await container.direct({ headers: { 'Sanfran-Lease': 'of another' } })).json, 2)
    assert.equal((await request({ host: '127.0.0.8', port: container.port })).status, 421)
  }
})

test('a pod address in IPv6 is recognized in any spelling', async (t) => {
  const container = await serving(t, COUNTS, { host: '::', podAddress: '0:0:0:0:0:0:0:1' })
  assert.equal((await request({ host: '::1', port: container.port })).json, 1)
  assert.equal((await request({ host: NODE_ADDRESS, port: container.port })).status, 421)
})

test('a pod has an address of each family', async (t) => {
  const container = await serving(t, COUNTS, { host: '::', podAddress: `${POD_ADDRESS},0:0::1` })
  assert.equal((await request({ host: '::1', port: container.port })).json, 1)
  assert.equal((await container.direct({})).json, 2)
  assert.equal((await request({ host: NODE_ADDRESS, port: container.port })).status, 421)
})

test('before activation and without a pod address nothing is direct', async (t) => {
  const container = await Container.start(t)
  const early = net.connect(container.port, POD_ADDRESS) // accepted before it is known to be direct
  await once(early, 'connect')
  const answer = await container.direct({})
  assert.deepEqual([answer.status, answer.json.error.code], [503, 'NotActivated'])
  await container.activate(t, COUNTS)
  early.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n')
  assert.match(String((await early.toArray()).join('')), /200 OK[^]*\r\n\r\n1$/)

  const without = await serving(t, COUNTS, { podAddress: '' })
  assert.equal((await without.direct({})).status, 421)
})

test('what a request expects is answered after its lease', async (t) => {
  const container = await serving(t, COUNTS)
  const to = { host: NODE_ADDRESS, port: container.port }
  for (const Expect of ['x', '100-continue']) {
    const refused = await request({ ...to, headers: { Expect } })
    assert.deepEqual([refused.status, refused.headers['sanfran-refused']], [421, NONCE], Expect)
  }
  for (const send of ['request', 'direct']) assert.equal((await container[send]({ headers: { Expect: 'x' } })).status, 417, send)
  assert.equal((await container.request({})).json, 1, 'the function is not called')
  container.send({ type: 'ping' })
  await container.receive('activity', { from: container.messages.length, where: (m) => m.inFlight === 0 })

  const listening = await serving(t, { 'index.js': `module.exports = (req, res) => {
    req.socket.server.on('checkExpectation', (req, res) => res.end(req.headers.expect))
    res.end()
  }` })
  await listening.request({})
  assert.equal((await listening.request({ headers: { Expect: 'mine' } })).text, 'mine')
})

test('SanFran’s headers never reach a function', async (t) => {
  const container = await serving(t, {
    'index.js': `module.exports = (req, res) => req.resume().on('end', () =>
      res.json([Object.keys(req.headers), req.rawHeaders, Object.keys(req.headersDistinct), req.trailers, req.rawTrailers]))`,
  })
  for (const send of ['request', 'direct']) {
    const { text } = await container[send]({ method: 'POST', headers: { 'X-Mine': '1', 'Sanfran-Pod': 'u', 'SANFRAN-REVISION': 'r' } })
    assert.doesNotMatch(text, /sanfran/i)
    assert.match(text, /x-mine/)
  }
  const socket = net.connect(container.port, NODE_ADDRESS)
  socket.write(`POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nSanfran-Lease: ${LEASE}\r\nTransfer-Encoding: chunked\r\n\r\n` +
    `1\r\nx\r\n0\r\nSanfran-Lease: ${LEASE}\r\nX-Trailer: t\r\n\r\n`)
  const text = (await socket.toArray()).join('')
  assert.match(text, /\{"x-trailer":"t"\},\["X-Trailer","t"\]/)
  assert.doesNotMatch(text, /sanfran/i)
})

test('SanFran’s headers never come from a function', async (t) => {
  const ways = {
    // First, while the process has not seen any of its own methods get such a name.
    borrowed: `require('http').OutgoingMessage.prototype.setHeader.call(res, 'SANFRAN-refused', 'n'); res.setHeader('X-Kept', 'k'); res.end('x')`,
    setHeader: `res.setHeader('Sanfran-Refused', 'n'); res.setHeader('X-Kept', 'k'); res.end('x')`,
    append: `res.appendHeader('sanfran-refused', 'n'); res.set('X-Kept', 'k').send('x')`,
    setHeaders: `res.setHeaders(new Map([['Sanfran-Refused', 'n'], ['X-Kept', 'k']])); res.end('x')`,
    writeHead: `res.writeHead(421, { 'Sanfran-Refused': 'n', 'X-Kept': 'k' }).end('x')`,
    reason: `res.writeHead(421, 'Gone', { 'SANFRAN-Refused': 'n', 'X-Kept': 'k' }); res.end('x')`,
    array: `res.writeHead(421, ['Sanfran-Refused', 'n', 'X-Kept', 'k']); res.end('x')`,
    flush: `res.setHeader('Sanfran-Refused', 'n'); res.setHeader('X-Kept', 'k'); res.flushHeaders(); res.end('x')`,
    trailers: `res.setHeader('X-Kept', 'k'); res.write('x'); res.addTrailers({ 'Sanfran-Refused': 'n', 'X-T': 't' }); res.end()`,
    prototype: `Object.setPrototypeOf(res, require('http').ServerResponse.prototype); Object.setPrototypeOf(req, require('http').IncomingMessage.prototype)
      res.setHeader('Sanfran-Refused', 'n'); res.setHeader('X-Kept', 'k'); res.end('x')`,
    hints: `res.writeEarlyHints({ link: '</a.css>; rel=preload', 'Sanfran-Refused': 'n', 'X-Kept': 'k' }); res.setHeader('X-Kept', 'k'); res.end('x')`,
    information: `res.writeInformation(103, { 'SANFRAN-refused': 'n', 'X-Kept': 'k' }); res.setHeader('X-Kept', 'k'); res.end('x')`,
    informationArray: `res.writeInformation(103, ['Sanfran-Refused', 'n', 'X-Kept', 'k']); res.setHeader('X-Kept', 'k'); res.end('x')`,
    informationBorrowed: `require('http').ServerResponse.prototype.writeInformation.call(res, 103, [['Sanfran-Refused', 'n'], ['X-Kept', 'k']]); res.setHeader('X-Kept', 'k'); res.end('x')`,
  }
  const cases = Object.entries(ways).map(([name, code]) => `${name}(req, res) { ${code} }`)
  const container = await serving(t, { 'index.js': `module.exports = { ${cases.join(',\n')} }` })
  for (const name of Object.keys(ways)) {
    const answer = await container.request({ path: `/${name}` })
    assert.equal(answer.headers['sanfran-refused'], undefined, name)
    assert.equal(answer.headers['x-kept'], 'k', name)
    assert.equal(answer.text, 'x', name)
    if (/^(hints|information)/.test(name)) {
      assert.deepEqual(answer.interim.map(({ statusCode, headers }) => [statusCode, headers['sanfran-refused'], headers['x-kept']]), [[103, undefined, 'k']], name)
    }
    if (name === 'trailers') assert.deepEqual(answer.trailers, { 'x-t': 't' })
  }
})
