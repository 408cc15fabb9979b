'use strict'

// A plain process with a real Express application that runs the functions of
// handlers.js, set up as the worker's documents say its functions find it.

const cookieParser = require('cookie-parser')
const express = require('express')
const { STATUS_CODES } = require('node:http')

const { handlers, streams } = require('./handlers.js')

const app = express()
app.disable('x-powered-by')
app.set('trust proxy', 1)
app.use((req, res, next) => {
  const fn = streams[req.get('X-Case')]
  return fn === undefined ? next() : fn(req, res, next)
})

const limit = '1mb'
app.use(cookieParser())
app.use(express.json({ limit, type: ['json', '+json'] }))
app.use(express.urlencoded({ limit, extended: true }))
app.use(express.text({ limit, type: 'text/*' }))
app.use(express.raw({ limit }))
app.use((req, res, next) => handlers[req.get('X-Case')](req, res, next))

// Errors in the worker's form, which Express leaves to its users.
app.use((req, res, next) => next(Object.assign(new Error(`the function passed on ${req.method} ${req.originalUrl}`), { status: 404, code: 'NotFound' })))
app.use((error, req, res, next) => {
  if (res.headersSent) return next(error)
  const own = error?.status ?? error?.statusCode
  const status = own >= 400 && own <= 599 ? own : 500
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  const reason = STATUS_CODES[status]
  const message = status >= 500 ? 'the function failed; its log has the error' : error.expose === false ? reason : error.message
  const code = status >= 500 ? 'FunctionError' : reason.replace(/\W/g, '')
  const body = JSON.stringify({ error: { code, message } })
  res.statusMessage = undefined
  res.writeHead(status, { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': Buffer.byteLength(body) })
  res.end(req.method === 'HEAD' ? undefined : body)
})

const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port))
server.keepAliveTimeout = 0 // as on a gateway's connections, which only the gateway closes
