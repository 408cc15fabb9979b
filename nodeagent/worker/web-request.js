'use strict'

// The Request of functions of the web standard.

const { createError } = require('./express.js')
const { copyHeaders, replaceGlobal, standFor } = require('./web-forward.js')
const { fetched } = require('./web-headers.js')

const { AbortController, Headers, Promise, ReadableStream, Request, URL } = globalThis
const { apply, construct } = Reflect
const { then } = Promise.prototype
const { arrayBuffer } = Request.prototype
const { concat } = Buffer
const { parse } = JSON
const decoder = new TextDecoder() // drops a byte order mark, as the standard says
const { decode } = TextDecoder.prototype

// What would make the URL's parser look for the path in the host, or for the
// host in the path.
const NO_HOST = /[\s/\\?#@]/
/** Bytes of a body that are read before its reader asks for them. */
const READ_AHEAD = 64 << 10
const FORBIDDEN = new Set(['CONNECT', 'TRACE', 'TRACK'])

class WebRequest {
  #req
  #res
  #url
  #hasBody
  #used = false // its body is being read, without the native Request
  #headers = null // once they were looked at
  #controller = null
  #native = null

  /**
   * @param {import('./message.js').FunctionRequest} req
   * @param {import('./message.js').FunctionResponse} res
   * @throws {Error} with status 400: there can be no Request of this kind
   */
  constructor(req, res) {
    this.#req = req
    this.#res = res
    const { method, headers } = req
    const { host = 'localhost' } = req
    if (NO_HOST.test(host)) throw createError(400, `the host "${host}" is none`)
    if (FORBIDDEN.has(method)) throw createError(400, `there can be no Request of method ${method}`)
    try {
      this.#url = new URL(`${req.protocol}://${host}${pathOf(req.originalUrl)}`).href
    } catch (error) {
      throw createError(400, `the request cannot be a Request: ${error.message}`)
    }
    this.#hasBody = method !== 'GET' && method !== 'HEAD' &&
      (headers['transfer-encoding'] !== undefined || Number(headers['content-length']) > 0)
  }

  static is(value) {
    return typeof value === 'object' && value !== null && #native in value
  }

  /** The Request of Node's own class behind a WebRequest. */
  static native(request) {
    if (request.#native === null) {
      const req = request.#req
      let body
      if (request.#used) body = new ReadableStream({ start: (controller) => controller.close() })
      else if (request.#hasBody) body = streamOf(req)
      const native = new Request(request.#url, {
        method: req.method,
        headers: request.#headers ?? headersOf(req),
        signal: request.signal,
        body,
        duplex: 'half',
      })
      if (request.#used) apply(arrayBuffer, native, []) // so that it knows
      request.#native = native
    } else if (request.#headers !== null) {
      copyHeaders(request.#headers, request.#native.headers)
    }
    return request.#native
  }

  get method() {
    return this.#req.method
  }

  get url() {
    return this.#url
  }

  get headers() {
    return (this.#headers ??= this.#native === null ? headersOf(this.#req) : this.#native.headers)
  }

  /** Aborts when the client has gone before it had its whole answer. */
  get signal() {
    if (this.#controller === null) {
      const controller = this.#controller = new AbortController()
      const res = this.#res
      const abort = () => {
        if (!res.writableFinished) controller.abort()
      }
      if (res.closed || res.destroyed) abort()
      else res.on('close', abort)
    }
    return this.#controller.signal
  }

  get bodyUsed() {
    return this.#native === null ? this.#used : this.#native.bodyUsed
  }

  arrayBuffer() {
    return this.#read('arrayBuffer', ({ buffer, byteOffset, length }) =>
      length === buffer.byteLength ? buffer : buffer.slice(byteOffset, byteOffset + length))
  }

  bytes() {
    return this.#read('bytes', (bytes) => new Uint8Array(bytes))
  }

  json() {
    return this.#read('json', (bytes) => parse(apply(decode, decoder, [bytes])))
  }

  text() {
    return this.#read('text', (bytes) => apply(decode, decoder, [bytes]))
  }

  // Reads the body out of Node's stream, where no stream of the web has been
  // put around it.
  #read(method, convert) {
    if (this.#native !== null || this.#used || !this.#hasBody) {
      return apply(Request.prototype[method], WebRequest.native(this), [])
    }
    this.#used = true
    return collect(this.#req).then(convert)
  }
}

function headersOf({ rawHeaders }) {
  const headers = new Headers()
  for (let i = 0; i < rawHeaders.length; i += 2) headers.append(rawHeaders[i], rawHeaders[i + 1])
  return headers
}

// The path and query of a request's target, which may be a whole URL or "*".
function pathOf(target) {
  if (target.startsWith('/')) return target
  const path = target.replace(/^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i, '')
  if (path.startsWith('/')) return path
  return path.startsWith('?') ? `/${path}` : '/'
}

function collect(req) {
  return new Promise((resolve, reject) => {
    const chunks = []
    read(req, {
      data: (chunk) => (chunks[chunks.length] = chunk),
      end: () => resolve(concat(chunks)),
      failed: reject,
    })
  })
}

// The body as a stream of the web. Not Readable.toWeb: when that is cancelled it
// destroys the connection, so that nothing can be answered, and Node.js 24 may
// throw where nobody can catch it.
function streamOf(req) {
  let open = true
  const finish = (how) => {
    if (!open) return
    open = false
    how()
  }
  return new ReadableStream({
    type: 'bytes',
    start(controller) {
      req.pause()
      read(req, {
        data(chunk) {
          if (!open) return
          controller.enqueue(new Uint8Array(chunk)) // a copy: its memory may be handed on
          if (controller.desiredSize <= 0) req.pause()
        },
        end: () => finish(() => {
          controller.close()
          controller.byobRequest?.respond(0)
        }),
        failed: (error) => finish(() => controller.error(error)),
      })
    },
    pull() {
      req.resume()
    },
    cancel() {
      open = false
      req.resume() // what still comes is dropped, and the next request found
    },
  }, { highWaterMark: READ_AHEAD })
}

function read(req, { data, end, failed }) {
  const gone = () => failed(req.errored ?? createError(400, 'request aborted'))
  if (req.destroyed) return gone()
  req.on('data', data)
  req.on('end', end)
  req.on('error', failed)
  req.on('close', gone) // after its end it is not heard
}

standFor(WebRequest, Request, WebRequest.native)

// Only Node's own code looks behind a Request: what makes a Request of another,
// and what sends it.
const WebRequestConstructor = new Proxy(Request, {
  construct(target, args, newTarget) {
    if (WebRequest.is(args[0])) args[0] = WebRequest.native(args[0])
    return construct(target, args, newTarget)
  },
})
const webFetch = new Proxy(globalThis.fetch, {
  apply(target, receiver, args) {
    if (WebRequest.is(args[0])) args[0] = WebRequest.native(args[0])
    return apply(then, apply(target, receiver, args), [fetched])
  },
})
Object.defineProperty(Request.prototype, 'constructor', { value: WebRequestConstructor })
replaceGlobal('Request', WebRequestConstructor)
replaceGlobal('fetch', webFetch)
webFetch.prototype.constructor = webFetch

module.exports = { WebRequest }
