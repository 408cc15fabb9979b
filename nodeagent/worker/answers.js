'use strict'

// What the worker itself answers, and what it writes into the function's log.

const http = require('node:http')

const { writeOwnHead } = require('./headers.js')
const { traceOf } = require('./trace.js')
const { endUnseen } = require('./unseen.js')

const { stringify } = JSON
const { apply } = Reflect
const { end } = http.ServerResponse.prototype

/**
 * Writes into the function's log. The stream is looked up anew each time: it is
 * made when it is first used, as in a program that has written nothing yet, and
 * a function that redirects it gets this too.
 */
const writeLog = (text) => process.stderr.write(text)

/** Writes an error with its stack, causes and properties into the log. */
const logError = (error) => writeLog(traceOf(error) + '\n')

/** Refuses a request that is not for this container's lease: no function code saw it. */
function refuse(res, nonce) {
  endUnseen(res)
  writeOwnHead(res, 421, { 'Sanfran-Refused': nonce, 'Content-Length': 0 })
  apply(end, res, [])
}

/**
 * Answers with an error in SanFran's form:
 * {"error": {"code": …, "message": …, "requestId": …}}, the last if the request
 * has an X-Request-Id.
 */
function answerError(req, res, status, code, message) {
  const requestId = req.headers['x-request-id']
  const body = Buffer.from(stringify({ error: { code, message, requestId } }))
  for (const name of res.getHeaderNames()) res.removeHeader(name)
  res.statusMessage = undefined
  writeOwnHead(res, status, { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': body.length })
  res.end(req.method === 'HEAD' ? undefined : body)
}

/**
 * Answers for a function that threw or rejected. An error with a status of its
 * own (4xx or 5xx, as http-errors makes them) is answered with that status; all
 * others are 500 and tell the client nothing. It is logged, unless it is one of 4xx
 * that says that it is made for the client (`expose`). A response that has begun cannot be mended: its connection is cut, so that the
 * client sees that it is not whole.
 */
function answerFailure(req, res, error) {
  const own = error?.status ?? error?.statusCode
  const status = Number.isInteger(own) && own >= 400 && own <= 599 ? own : 500
  if (status >= 500 || error.expose !== true) logError(error)
  if (res.writableEnded) return
  if (res.headersSent) {
    res.destroy()
    return
  }
  if (status >= 500) {
    answerError(req, res, status, 'FunctionError', 'the function failed; its log has the error')
  } else {
    answerError(req, res, status, codeOf(status), error.expose === false || typeof error.message !== 'string' ? reasonOf(status) : error.message)
  }
}

const reasonOf = (status) => http.STATUS_CODES[status] ?? `Status ${status}`
const codeOf = (status) => reasonOf(status).replace(/[^A-Za-z0-9]/g, '')

module.exports = { answerError, answerFailure, logError, refuse, writeLog }
