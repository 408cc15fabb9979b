'use strict'

// Contract 3: a handler of the web standard, (request, env, context) => Response.

const { Readable } = require('node:stream')

const { answerFailure, logError } = require('./answers.js')
const { createError } = require('./express.js')

const { Promise, ReadableStream, setImmediate } = globalThis

/**
 * The handler for a function that takes a Request and gives a Response.
 *
 * @param {Function} fn called with (request, process.env, {waitUntil})
 * @param {unknown} receiver its this
 * @returns {import('./contracts.js').Handler}
 */
function fetchHandler(fn, receiver) {
  return (req, res, hold) => {
    serve(fn, receiver, req, res, hold).catch((error) => answerFailure(req, res, error))
  }
}

async function serve(fn, receiver, req, res, hold) {
  const abort = new AbortController()
  res.on('close', () => {
    if (!res.writableFinished) abort.abort()
  })
  const context = {
    waitUntil(promise) {
      hold(Promise.resolve(promise).catch(logError))
    },
    passThroughOnException() {},
  }
  const response = await Reflect.apply(fn, receiver, [requestOf(req, abort.signal), process.env, context])
  if (!isResponse(response)) {
    throw new TypeError(`a handler (request) => Response gave ${response === null ? 'null' : typeof response}, not a Response` +
      ' (a handler that uses res must declare both of its parameters: (req, res) => …)')
  }
  await send(response, req, res)
}

// Whether a value is a Response, of Node's own class or of another copy that a
// package brings (undici, node-fetch, @whatwg-node/fetch).
function isResponse(value) {
  if (value instanceof Response) return true
  return value !== null && typeof value === 'object' && Number.isInteger(value.status) && 'body' in value &&
    typeof value.headers?.[Symbol.iterator] === 'function'
}

function requestOf(req, signal) {
  const headers = new Headers()
  for (let i = 0; i < req.rawHeaders.length; i += 2) headers.append(req.rawHeaders[i], req.rawHeaders[i + 1])
  const { method, headers: { 'content-length': length, 'transfer-encoding': encoding } } = req
  const hasBody = method !== 'GET' && method !== 'HEAD' && (encoding !== undefined || Number(length) > 0)
  const { host = 'localhost' } = req
  if (NO_HOST.test(host)) throw createError(400, `the host "${host}" is none`)
  try {
    return new Request(`${req.protocol}://${host}${pathOf(req.originalUrl)}`, {
      method,
      headers,
      signal,
      body: hasBody ? Readable.toWeb(req) : undefined,
      duplex: 'half',
    })
  } catch (error) {
    throw createError(400, `the request cannot be a Request: ${error.message}`)
  }
}

// What would make the URL's parser look for the path in the host, or for the
// host in the path.
const NO_HOST = /[\s/\\?#@]/

// The path and query of a request's target, which may be a whole URL or "*".
function pathOf(target) {
  const path = target.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i, '')
  if (path.startsWith('/')) return path
  return path.startsWith('?') ? `/${path}` : '/'
}

async function send(response, req, res) {
  res.statusCode = response.status
  if (response.statusText) res.statusMessage = response.statusText
  for (const [name, value] of response.headers) {
    if (name !== 'set-cookie') res.setHeader(name, value)
  }
  // node-fetch has raw() for what the standard has now.
  const cookies = response.headers.getSetCookie?.() ?? response.headers.raw?.()['set-cookie'] ?? []
  if (cookies.length > 0) res.setHeader('Set-Cookie', cookies)

  let { body } = response
  if (body === null || body === undefined) return void res.end()
  // node-fetch's is a stream of Node.
  if (typeof body.getReader !== 'function') body = ReadableStream.from(body)
  if (req.method === 'HEAD') {
    await body.cancel()
    return void res.end()
  }
  const reader = body.getReader()
  res.on('close', () => {
    if (!res.writableFinished) reader.cancel(new Error('the client is gone')).catch(() => {})
  })
  // The head goes out with the first bytes when they are there already, or
  // else before them.
  let began = false
  setImmediate(() => {
    if (!began && !res.headersSent && !res.destroyed) res.flushHeaders()
  })
  for (;;) {
    const { done, value } = await reader.read()
    began = true
    if (done || res.destroyed) break
    if (!res.write(value)) await drained(res)
  }
  res.end()
}

// Resolves when the response takes more, or never will.
function drained(res) {
  return new Promise((resolve) => {
    const done = () => {
      res.off('drain', done)
      res.off('close', done)
      resolve()
    }
    res.on('drain', done)
    res.on('close', done)
  })
}

module.exports = { fetchHandler }
