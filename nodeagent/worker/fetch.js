'use strict'

// Contract 3: a handler of the web standard, (request, env, context) => Response.

const { answerFailure, logError } = require('./answers.js')
const { WebRequest } = require('./web-request.js')
const { WebResponse, isResponse } = require('./web-response.js')

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
      return failed(error)
    }
    apply(then, Promise.resolve(result), [(response) => {
      if (!WebResponse.answered(response, req, res)) return send(response, req, res)
    }]).catch(failed)
  }
}

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
  const reader = !body || req.method === 'HEAD' ? null : body.getReader()
  if (body && reader === null) await body.cancel()
  res.statusCode = response.status
  if (response.statusText) res.statusMessage = response.statusText
  for (const [name, value] of response.headers) {
    if (name !== 'set-cookie') res.setHeader(name, value)
  }
  // node-fetch has raw() for what the standard has now.
  const cookies = response.headers.getSetCookie?.() ?? response.headers.raw?.()['set-cookie'] ?? []
  if (cookies.length > 0) res.setHeader('Set-Cookie', cookies)
  if (reader === null) return void res.end()

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
