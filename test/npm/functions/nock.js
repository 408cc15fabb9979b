'use strict'

// Takes the place of Node's HTTP client, for a while.
const { createServer } = require('node:http')
const http = require('node:http')
const { default: nock } = require('nock')
const { text } = require('node:stream/consumers')
const { listen } = require('./loopback.js')

const get = (url) => new Promise((resolve, reject) => http.get(url, (response) => text(response).then((body) => resolve([response.statusCode, body]), reject)).on('error', (error) => reject(error)))

module.exports = async (req, res) => {
  const server = createServer((req, res) => res.end('real'))
  const port = await listen(server)
  nock.disableNetConnect()
  nock('http://shop.example').get('/teas').reply(200, { teas: 2 }).post('/teas', { name: 'assam' }).reply(201)
  const mocked = await get('http://shop.example/teas')
  const fetched = await fetch('http://shop.example/teas', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"name":"assam"}' })
  const refused = await get(`http://127.0.0.1:${port}/`).catch((error) => error.code)
  const done = nock.isDone()
  nock.enableNetConnect()
  nock.restore()
  const real = await get(`http://127.0.0.1:${port}/`)
  server.close()
  res.json({ ok: true, mocked, fetched: fetched.status, refused, done, real })
}
