'use strict'

// What flows: requests and responses in pieces, in every contract, on both kinds
// of connection.

const assert = require('node:assert/strict')
const { once } = require('node:events')
const net = require('node:net')
const test = require('node:test')

const { serving, LEASE, NODE_ADDRESS, POD_ADDRESS } = require('./container.js')

// Each contract offers /echo (answers each piece when it comes), /early (answers
// before it reads), /events, /count (of bytes and trailers) and /ignore (does
// not read).
const NODE = `
  const routes = {
    echo: (req, res) => { res.writeHead(200, { Trailer: 'X-Pieces' }); res.flushHeaders(); let n = 0; req.on('data', (piece) => { n++; res.write('<' + piece + '>') }).on('end', () => { res.addTrailers({ 'X-Pieces': String(n) }); res.end() }) },
    early: (req, res) => { res.write('early'); req.on('data', () => {}).on('end', () => res.end('late')) },
    events: (req, res) => { res.writeHead(200, { 'Content-Type': 'text/event-stream' }); res.write('data: 1\\n\\n'); global.next = () => res.end('data: 2\\n\\n') },
    next: (req, res) => { global.next(); res.end() },
    count: (req, res) => { let n = 0; req.on('data', (piece) => { n += piece.length }).on('end', () => res.end(n + JSON.stringify(req.trailers))) },
    ignore: (req, res) => res.end('ignored'),
  };`
const CONTRACTS = {
  'Express function': [{ 'index.js': `${NODE} module.exports = (req, res) => routes[req.path.slice(1)](req, res)` }],
  'functions by name': [{ 'index.js': `${NODE} module.exports = routes` }],
  'fetch handler': [{
    'index.mjs': `const text = new TextEncoder()
      let controller
      const routes = {
        echo: (request) => new Response(request.body.pipeThrough(new TransformStream({ transform: (piece, c) => c.enqueue(text.encode('<' + Buffer.from(piece) + '>')) }))),
        early: (request) => new Response(new ReadableStream({ async start(c) { c.enqueue(text.encode('early')); for await (const piece of request.body); c.enqueue(text.encode('late')); c.close() } })),
        events: () => new Response(new ReadableStream({ start(c) { controller = c; c.enqueue(text.encode('data: 1\\n\\n')) } }), { headers: { 'Content-Type': 'text/event-stream' } }),
        next: () => { controller.enqueue(text.encode('data: 2\\n\\n')); controller.close(); return new Response() },
        count: async (request) => new Response((await request.arrayBuffer()).byteLength + '{}'),
        ignore: () => new Response('ignored'),
      }
      export default { fetch: (request) => routes[new URL(request.url).pathname.slice(1)](request) }`,
  }],
  'server of its own': [{ 'server.js': `${NODE} require('node:http').createServer((req, res) => routes[req.url.slice(1)](req, res)).listen(0)` }, { command: ['node', 'server.js'] }],
}

class Client {
  text = ''
  constructor(container, host) {
    this.lease = host === NODE_ADDRESS ? `Sanfran-Lease: ${LEASE}\r\n` : ''
    this.socket = net.connect(container.port, host).setEncoding('utf8')
    this.socket.on('data', (text) => (this.text += text))
  }

  send(method, path, headers = '', body = '') {
    this.socket.write(`${method} ${path} HTTP/1.1\r\nHost: a\r\n${this.lease}${headers}\r\n${body}`)
  }

  chunk(text) {
    this.socket.write(`${text.length.toString(16)}\r\n${text}\r\n`)
  }

  async until(pattern) {
    while (!pattern.test(this.text)) await once(this.socket, 'data')
    const { text } = this
    this.text = ''
    return text
  }
}

for (const [contract, [files, options]] of Object.entries(CONTRACTS)) {
  test(`${contract}: bytes flow as they come`, async (t) => {
    const container = await serving(t, files, options)
    const web = contract === 'fetch handler'
    for (const host of [NODE_ADDRESS, POD_ADDRESS]) {
      const client = new Client(container, host)
      t.after(() => client.socket.destroy())
      const chunked = 'Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n'

      // First byte out before the last byte in, both ways, and trailers.
      client.send('POST', '/echo', `${chunked}Trailer: X-T\r\n`)
      await client.until(/^HTTP\/1.1 200 OK\r\n[^]*\r\n\r\n/)
      for (const piece of ['one', 'two']) {
        client.chunk(piece)
        assert.match(await client.until(/>\r\n$/), new RegExp(`<${piece}>`))
      }
      client.socket.write(`0\r\nX-T: t\r\n${client.lease}\r\n`)
      assert.match(await client.until(/0\r\n[^]*\r\n$/), web ? /^0\r\n\r\n$/ : /^0\r\nX-Pieces: 2\r\n\r\n$/)

      // An answer that begins before any of the body.
      client.send('POST', '/early', chunked)
      await client.until(/early/)
      client.chunk('x')
      client.socket.write('0\r\n\r\n')
      await client.until(/late\r\n0\r\n\r\n$/)

      // Server-Sent Events.
      client.send('GET', '/events')
      assert.match(await client.until(/data: 1/), /Content-Type: text\/event-stream/i)
      await container[host === NODE_ADDRESS ? 'request' : 'direct']({ path: '/next' })
      await client.until(/data: 2\n\n\r\n0\r\n\r\n$/)

      // Request trailers; the standard's Request has none.
      client.send('POST', '/count', chunked)
      client.chunk('xyz')
      client.socket.write(`0\r\nX-Trailer: t\r\n${client.lease}\r\n`)
      assert.match(await client.until(/\}/), web ? /3\{\}/ : /3\{"x-trailer":"t"\}/)
      await client.until(/^(|\r\n0\r\n\r\n)$/)

      // 100-continue, read and not read.
      client.send('POST', '/count', 'Content-Type: application/octet-stream\r\nContent-Length: 2\r\nExpect: 100-continue\r\n')
      assert.equal(await client.until(/\r\n\r\n/), 'HTTP/1.1 100 Continue\r\n\r\n')
      client.socket.write('ab')
      assert.match(await client.until(/\}/), /2\{\}/)

      // A large body that is not read leaves the connection fit for more.
      client.send('POST', '/ignore', 'Content-Type: application/octet-stream\r\nContent-Length: 300000\r\n', 'x'.repeat(300_000))
      await client.until(/ignored/)
      client.send('POST', '/count', 'Content-Type: application/octet-stream\r\nContent-Length: 1\r\n', 'x')
      await client.until(/1\{\}/)
    }
  })
}
