'use strict'

const { createServer } = require('node:http')

let count = 0
createServer(async (req, res) => {
  let size = 0
  for await (const chunk of req) size += chunk.length
  res.setHeader('Content-Type', 'application/json')
  res.end(JSON.stringify({ method: req.method, url: req.url, host: req.headers.host !== undefined, size, count: ++count, port: process.env.PORT }))
}).listen(8080, '0.0.0.0')
