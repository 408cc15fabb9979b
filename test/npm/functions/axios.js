'use strict'

const { createServer } = require('node:http')
const axios = require('axios')
const { listen } = require('./loopback.js')

const echo = createServer(async (req, res) => {
  let body = ''
  for await (const chunk of req) body += chunk
  if (req.url === '/missing') res.statusCode = 404
  if (req.url === '/slow') return
  res.setHeader('Content-Type', 'application/json')
  res.end(JSON.stringify({ method: req.method, url: req.url, type: req.headers['content-type'], token: req.headers.authorization, body }))
})

module.exports = async (req, res) => {
  const client = axios.create({ baseURL: `http://127.0.0.1:${await listen(echo)}`, headers: { Authorization: 'Bearer abc' } })
  client.interceptors.response.use((response) => ({ ...response, seen: true }))
  const got = await client.get('/items', { params: { q: 'a b', list: [1, 2] } })
  const posted = await client.post('/items', { a: 1 })
  const form = await client.postForm('/form', { a: '1' })
  const missing = await client.get('/missing').catch((error) => error.response.status)
  const slow = await client.get('/slow', { timeout: 50 }).catch((error) => error.code)
  const refused = await axios.get('http://127.0.0.1:1/').catch((error) => error.code)
  echo.close()
  echo.closeAllConnections()
  res.json({ ok: true, got: got.data, seen: got.seen, posted: posted.data, form: form.data.type.split(';')[0], missing, slow, refused })
}
