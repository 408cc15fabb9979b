'use strict'

const { createServer } = require('node:http')
const { gzipSync } = require('node:zlib')
const { Agent, FormData, MockAgent, fetch, request, stream } = require('undici')
const { PassThrough } = require('node:stream')
const { text } = require('node:stream/consumers')
const { listen } = require('./loopback.js')

const server = createServer(async (req, res) => {
  const body = await text(req)
  if (req.url === '/gzip') {
    res.setHeader('Content-Encoding', 'gzip')
    return res.end(gzipSync('unzipped'))
  }
  res.end(`${req.method} ${req.url} ${body.length > 20 ? 'multipart' : body}`.trim())
})

module.exports = async (req, res) => {
  const origin = `http://127.0.0.1:${await listen(server)}`
  const dispatcher = new Agent({ pipelining: 4 })
  const plain = await request(`${origin}/plain`, { dispatcher, method: 'PUT', body: 'body' })
  const form = new FormData()
  form.set('name', 'value')
  const posted = await (await fetch(`${origin}/form`, { dispatcher, method: 'POST', body: form })).text()
  const unzipped = await (await fetch(`${origin}/gzip`, { dispatcher })).text()
  const through = new PassThrough()
  const streamed = text(through)
  await stream(`${origin}/stream`, { dispatcher, method: 'GET' }, () => through)
  const global = await (await globalThis.fetch(`${origin}/global`)).text()
  const mock = new MockAgent()
  mock.disableNetConnect()
  mock.get('http://mock.example').intercept({ path: '/' }).reply(418, 'teapot')
  const mocked = await request('http://mock.example/', { dispatcher: mock })
  const answer = {
    ok: true, plain: await plain.body.text(), posted, unzipped, streamed: await streamed, global,
    mocked: [mocked.statusCode, await mocked.body.text()],
  }
  await dispatcher.close()
  server.close()
  server.closeAllConnections()
  res.json(answer)
}
