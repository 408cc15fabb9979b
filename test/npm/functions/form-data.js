'use strict'

const { createServer } = require('node:http')
const { Readable } = require('node:stream')
const { text } = require('node:stream/consumers')
const FormData = require('form-data')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const server = createServer(async (req, res) => res.end(JSON.stringify({ type: req.headers['content-type'].split(';')[0], parts: (await text(req)).match(/name="\w+"/g) })))
  const port = await listen(server)
  const form = new FormData()
  form.append('tea', 'assam')
  form.append('file', Readable.from(['a', 'b']), { filename: 'a.txt', knownLength: 2 })
  const answer = await new Promise((resolve, reject) => form.submit({ host: '127.0.0.1', port, path: '/' }, (error, response) => error ? reject(error) : resolve(response)))
  const received = JSON.parse(await text(answer))
  server.close()
  res.json({ ok: true, received, boundary: form.getBoundary().length > 20 })
}
