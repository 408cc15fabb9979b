'use strict'

// Contract 3: a handler of the web standard, (request, env, context) => Response.

const { types } = require('node:util')

const { answerFailure, logError, writeLog } = require('./answers.js')
const { isDecoded, isHopByHop, withoutNamed } = require('./web-headers.js')
const { WebRequest } = require('./web-request.js')
const { WebResponse, isResponse, mustNotBeCancelled } = require('./web-response.js')

const { Promise, ReadableStream, setImmediate } = globalThis
const { apply } = Reflect
const { then } = Promise.prototype

/**
 * The handler for a function that takes a Request and gives a Response.
 *
 * @param {Function} fn called with (request, process.env, {waitUntil})
 * @param {unknown} receiver its this
 * @returns {import('./contracts.js').Handler}
 */
function fetchHandler(fn, receiver) {
  return (req, res, hold) => {
    const failed = (error) => answerFailure(req, res, error)
    const threw = (error) => {
      failed(error)
      if (receiver === undefined && isWrapper(fn) && types.isNativeError(error) && error.name === 'TypeError') writeLog(WRAPPED)
    }
    const context = {
      waitUntil(promise) {
        hold(Promise.resolve(promise).catch(logError))
      },
      passThroughOnException() {},
    }
    let result
    try {
      result = apply(fn, receiver, [new WebRequest(req, res), process.env, context])
      if (WebResponse.answered(result, req, res)) return
    } catch (error) {
      return threw(error)
    }
    apply(then, Promise.resolve(result), [(response) => {
      if (!WebResponse.answered(response, req, res)) return send(response, req, res)
    }, threw]).catch(failed)
  }
}

// What wraps a function (req, res) and declares neither.
const isWrapper = (fn) => fn.length === 0 && /\.\.\.|\barguments\b/.test(Function.prototype.toString.call(fn))

const WRAPPED = 'The exported function declares no parameters, so that it was called with (request, env, context).' +
  ' If it wraps a handler (req, res), export one that declares both: export default (req, res) => handler(req, res)\n'

async function send(response, req, res) {
  if (!isResponse(response)) {
    throw new TypeError(`a handler (request) => Response gave ${response === null ? 'null' : typeof response}, not a Response` +
      ' (a handler that uses res must declare both of its parameters: (req, res) => …)')
  }
  if (response.type === 'error') throw new TypeError('a handler (request) => Response gave Response.error(), which is no answer')
  if (response.bodyUsed) throw new TypeError('a handler (request) => Response gave a Response whose body has been read already')
  let { body } = response
  // node-fetch's is a stream of Node.
  if (body && typeof body.getReader !== 'function') body = ReadableStream.from(body)
  // Before any of it is answered: a body that was read already is a failure.
  const reader = body ? body.getReader() : null
  const cancel = (reason, failed) => {
    if (!mustNotBeCancelled(response, body)) reader.cancel(reason).catch(failed)
  }
  res.statusCode = response.status
  if (response.statusText) res.statusMessage = response.statusText
  const head = headOf(response)
  for (let i = 0; i < head.length; i += 2) res.setHeader(head[i], head[i + 1])
  // node-fetch has raw() for what the standard has now.
  const cookies = response.headers.getSetCookie?.() ?? response.headers.raw?.()['set-cookie'] ?? []
  if (cookies.length > 0) res.setHeader('Set-Cookie', cookies)
  if (reader === null || req.method === 'HEAD') {
    res.end()
    // Not waited for: where the Response has been cloned, it may take for ever.
    if (reader !== null) cancel(new Error('the request was a HEAD'), logError)
    return
  }

  res.on('close', () => {
    if (!res.writableFinished) cancel(new Error('the client is gone'), () => {})
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

// The headers that go out, cookies apart: [name, value, …].
function headOf({ url, headers }) {
  const plain = Boolean(url) && isDecoded(headers)
  const head = []
  let connection
  for (const [name, value] of headers) {
    if (name === 'connection') connection = value
    if (name === 'set-cookie' || isHopByHop(name)) continue
    if (plain && (name === 'content-encoding' || name === 'content-length')) continue
    head.push(name, value)
  }
  return connection === undefined ? head : withoutNamed(head, connection)
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
