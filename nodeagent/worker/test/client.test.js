'use strict'

// Where an agent forwards, the function sees the client that the agent names, in
// every contract, as on a direct connection; and nobody else can name one.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { Container, serving, LEASE, NODE_ADDRESS, POD_ADDRESS } = require('./container.js')

// What the function sees, at all places where it may look.
const LOOK = `(req) => JSON.stringify([req.socket.remoteAddress, req.socket.remoteFamily, req.socket.remotePort, req.connection.remoteAddress, req.client.remotePort, req.ip, req.ips, req.protocol])`
const UPGRADE = `(req, socket) => socket.end('HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: x\\r\\nContent-Length: 9\\r\\n\\r\\n' + [socket.remoteAddress, socket.remotePort, req.socket.remoteFamily, 'end'])`
const CONTRACTS = {
  'Express function': { 'index.js': `const look = ${LOOK}; module.exports = (req, res) => res.end(look(req)); module.exports.upgrade = ${UPGRADE}` },
  'functions by name': { 'function.js': `const look = ${LOOK}; exports.f = (req, res) => res.end(look(req)); exports.f.upgrade = ${UPGRADE}` },
  'Express application': { 'index.js': `const look = ${LOOK}; const app = require('express')(); app.use((req, res) => res.end(look(req))); app.upgrade = ${UPGRADE}; module.exports = app` },
  'server': { 'server.js': `const look = ${LOOK}; require('node:http').createServer((req, res) => res.end(look(req))).on('upgrade', ${UPGRADE}).listen(0)` },
}
const start = (t, name, options = {}) => serving(t, CONTRACTS[name], {
  command: name === 'server' ? ['node', 'server.js'] : undefined, packages: name === 'Express application', ...options,
})

// A connection that asks one thing after the other.
function connection(container, host = NODE_ADDRESS) {
  const socket = net.connect(container.port, host).setEncoding('utf8')
  let text = ''
  socket.on('data', (chunk) => (text += chunk))
  socket.on('error', () => {})
  const ask = async (headers = {}, until = /\r\n\r\n\[.*\]$/s) => {
    text = ''
    const lines = Object.entries(headers).flatMap(([name, values]) => [values].flat().map((value) => `${name}: ${value}\r\n`))
    socket.write(`GET /f HTTP/1.1\r\nHost: example.test\r\n${lines.join('')}\r\n`)
    while (!until.test(text)) await once(socket, 'data')
    return text
  }
  return {
    socket,
    ask,
    see: async (headers) => JSON.parse(/\[.*\]$/s.exec(await ask(headers))[0]),
    upgrade: async (headers) => /[^\n]*,end$/.exec(await ask({ Connection: 'Upgrade', Upgrade: 'x', ...headers }, /,end$/))[0],
  }
}
const FORGED = { 'X-Forwarded-For': '203.0.113.9', 'X-Forwarded-Proto': 'https', Forwarded: 'for=203.0.113.9' }
const agents = (client, lease = LEASE) => ({ 'Sanfran-Lease': lease, 'Sanfran-Client': client })

/** What is seen of an end of a connection; Express adds what it makes of that. */
const seen = (name, address, port, family = address.includes(':') ? 'IPv6' : 'IPv4') => [
  address, family, port, address, port, ...(name === 'server' ? [null, null, null] : [address, [], 'http']),
]

for (const name of Object.keys(CONTRACTS)) {
  test(`${name}: each request on an agent’s connection shows its own client, as a direct connection does`, async (t) => {
    const container = await start(t, name)
    const direct = connection(container, POD_ADDRESS)
    assert.deepEqual(await direct.see(FORGED), seen(name, '127.0.0.1', direct.socket.localPort))

    const agent = connection(container)
    const itself = await agent.see({ 'Sanfran-Lease': LEASE })
    assert.deepEqual(itself, seen(name, '127.0.0.1', agent.socket.localPort))
    assert.deepEqual(await agent.see({ ...agents('192.0.2.1:1234'), ...FORGED }), seen(name, '192.0.2.1', 1234))
    assert.deepEqual(await agent.see(agents('192.0.2.1:1235')), seen(name, '192.0.2.1', 1235))
    assert.deepEqual(await agent.see(agents('[2001:db8::1]:80')), seen(name, '2001:db8::1', 80))
    // A gateway's request on the connection that an agent keeps: the gateway is the proxy.
    const proxied = await agent.see({ 'Sanfran-Lease': LEASE, ...FORGED })
    assert.deepEqual(proxied.slice(0, 5), itself.slice(0, 5))
    if (name === 'Express function') assert.deepEqual(proxied.slice(5), ['203.0.113.9', ['203.0.113.9'], 'https'])
    assert.deepEqual(await agent.see(agents('192.0.2.2:1')), seen(name, '192.0.2.2', 1))
    assert.equal(await agent.upgrade(agents('192.0.2.3:5')), '192.0.2.3,5,IPv4,end')

    const fresh = connection(container) // whose first request it is
    assert.equal(await fresh.upgrade(agents('[2001:db8::2]:6')), '2001:db8::2,6,IPv6,end')
  })

  test(`${name}: a socket of both families shows an IPv4 client in its mapped form`, async (t) => {
    const container = await start(t, name, { host: '::' })
    const direct = connection(container, POD_ADDRESS)
    assert.deepEqual(await direct.see(), seen(name, '::ffff:127.0.0.1', direct.socket.localPort))
    const agent = connection(container)
    assert.deepEqual(await agent.see(agents('192.0.2.1:1234')), seen(name, '::ffff:192.0.2.1', 1234))
    assert.deepEqual(await agent.see(agents('[2001:db8::1]:80')), seen(name, '2001:db8::1', 80))
  })

  test(`${name}: who does not show the lease names no client`, async (t) => {
    const container = await start(t, name)
    const direct = connection(container, POD_ADDRESS)
    for (const lease of [LEASE, 'guessed']) {
      assert.deepEqual(await direct.see(agents('192.0.2.1:1234', lease)), seen(name, '127.0.0.1', direct.socket.localPort))
    }
    const upgraded = connection(container, POD_ADDRESS)
    assert.match(await upgraded.upgrade(agents('192.0.2.1:1234')), /^127\.0\.0\.1,/)

    const agent = connection(container)
    assert.deepEqual(await agent.see(agents('192.0.2.1:1234')), seen(name, '192.0.2.1', 1234))
    for (const headers of [{ 'Sanfran-Client': '192.0.2.2:2' }, agents('192.0.2.2:2', 'guessed'), agents('192.0.2.2:2', [LEASE, LEASE])]) {
      assert.match(await agent.ask(headers, /\r\n\r\n/), /^HTTP\/1.1 421 /)
    }
    // Two clients, or none, are nobody: the agent is seen, whatever was before.
    for (const client of [['192.0.2.1:1', '192.0.2.2:2'], '', 'x', '192.0.2.1', '192.0.2.1:', '192.0.2.1:0', '192.0.2.1:65536', '192.0.2.256:1', '[::1', '2001:db8::1]:80', '2001:db8::1:80', '[192.0.2.1]:1', ':1', '[]:1']) {
      assert.deepEqual(await agent.see({ ...agents(client), ...FORGED }), seen(name, '127.0.0.1', agent.socket.localPort), `client ${client}`)
    }
  })
}

test('a refused request changes nothing about the socket of those before it', async (t) => {
  const handler = `(req, res) => { if (req.url === '/kept') return res.end(kept.remoteAddress); kept = req.socket; res.end('[]') }`
  for (const [files, command] of [
    [{ 'index.js': `let kept; module.exports = ${handler}` }], [{ 'server.js': `let kept; require('node:http').createServer(${handler}).listen(0)` }, ['node', 'server.js']],
  ]) {
    const container = await serving(t, files, { command })
    const agent = connection(container)
    await agent.see(agents('192.0.2.1:1'))
    assert.match(await agent.ask(agents('192.0.2.2:2', 'guessed'), /\r\n\r\n/), /^HTTP\/1.1 421 /)
    assert.equal((await container.direct({ path: '/kept' })).text, '192.0.2.1')
  }
})

test('a client in trailers is nobody’s word', async (t) => {
  const container = await serving(t, { 'index.js': `module.exports = (req, res) => req.resume().on('end', () => res.end('[' + JSON.stringify([req.socket.remoteAddress, req.trailers, req.ip]) + ']'))` })
  const socket = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
  socket.write(`POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nSanfran-Lease: ${LEASE}\r\nX-Forwarded-For: 192.0.2.7\r\nTransfer-Encoding: chunked\r\n\r\n` +
    '1\r\nx\r\n0\r\nSanfran-Client: 192.0.2.1:1\r\nX-T: 1\r\n\r\n')
  assert.match((await socket.toArray()).join(''), /\[\["127\.0\.0\.1",\{"x-t":"1"\},"192\.0\.2\.7"\]\]/)
})

test('a fetch handler’s URL is that of a client who is named', async (t) => {
  const container = await serving(t, { 'index.mjs': 'export default (request) => new Response(`[${JSON.stringify(request.url)}]`)' })
  const agent = connection(container)
  assert.deepEqual(await agent.see({ 'Sanfran-Lease': LEASE, ...FORGED }), ['https://example.test/f'])
  assert.deepEqual(await agent.see({ ...agents('192.0.2.1:1'), ...FORGED, 'X-Forwarded-Host': 'other.test' }), ['http://example.test/f'])
})

test('what watches the servers sees the client, too', async (t) => {
  const watch = `const seen = []
    require('node:diagnostics_channel').subscribe('http.server.request.start', ({ request, socket }) => seen.push(socket.remoteAddress + ' ' + request.socket.remotePort))`
  const handler = '(req, res) => res.end(JSON.stringify(seen.splice(0)))'
  for (const [files, command] of [
    [{ 'index.js': `${watch}\n module.exports = ${handler}` }],
    [{ 'server.js': `${watch}\n require('node:http').createServer(${handler}).on('connection', (socket) => seen.push('connection ' + socket.remoteAddress)).listen(0)` }, ['node', 'server.js']],
  ]) {
    const container = await serving(t, files, { command })
    const agent = connection(container)
    assert.deepEqual((await agent.see(agents('192.0.2.1:1'))).toSorted(), ['192.0.2.1 1', ...(command ? ['connection 192.0.2.1'] : [])])
    assert.deepEqual(await agent.see(agents('192.0.2.2:2')), ['192.0.2.2 2'])
    assert.deepEqual(await agent.see({ 'Sanfran-Lease': LEASE }), [`127.0.0.1 ${agent.socket.localPort}`])
  }
})

test('a function that has fixed whom its socket shows is served on', async (t) => {
  const fixed = `const value = { address: '192.0.2.9', family: 'IPv4', port: 9 }`
  const handler = `(req, res) => { Object.defineProperty(req.socket, '_peername', { value }); res.end(JSON.stringify([req.socket.remoteAddress])) }`
  for (const [files, command] of [
    [{ 'index.js': `${fixed}\n module.exports = ${handler}` }], [{ 'server.js': `${fixed}\n require('node:http').createServer(${handler}).listen(0)` }, ['node', 'server.js']],
  ]) {
    const container = await serving(t, files, { command })
    const agent = connection(container)
    for (const headers of [{ 'Sanfran-Lease': LEASE }, agents('192.0.2.1:1'), { 'Sanfran-Lease': LEASE }]) {
      assert.deepEqual(await Promise.race([agent.see(headers), container.exited]), ['192.0.2.9'])
    }
  }
})

test('nothing of it shows in a request or in a socket', async (t) => {
  const look = `(req, res) => { const names = (o) => Reflect.ownKeys(o).map(String).toSorted(); void req.socket.remoteAddress
    res.end('[' + JSON.stringify([req.rawHeaders, names(req.socket), Object.getOwnPropertyDescriptor(req.socket, '_peername').enumerable, Object.keys(req.socket._peername)]) + ']') }`
  for (const [files, command] of [
    [{ 'index.js': `module.exports = ${look}` }], [{ 'server.js': `require('node:http').createServer(${look}).listen(0)` }, ['node', 'server.js']],
  ]) {
    const container = await serving(t, files, { command })
    const [, names] = (await connection(container).see({ 'Sanfran-Lease': LEASE }))[0]
    const [headers, ...rest] = (await connection(container).see(agents('192.0.2.1:1')))[0]
    assert.deepEqual(headers, ['Host', 'example.test'])
    // Node.js has asked for the socket's own address, too.
    assert.deepEqual(rest, [[...new Set([...names, '_sockname'])].toSorted(), true, ['address', 'family', 'port']])
  }
})

test('before activation nobody names a client', async (t) => {
  const container = await Container.start(t)
  const early = connection(container)
  assert.match(await early.ask(agents('192.0.2.1:1'), /NotActivated/), /503/)
  await container.activate(t, CONTRACTS['Express function'])
  assert.deepEqual(await early.see({ 'Sanfran-Lease': LEASE }), seen('', '127.0.0.1', early.socket.localPort))
})
