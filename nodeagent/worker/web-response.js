'use strict'

// The Response of functions of the web standard: new Response(…) of texts and
// bytes keeps them, so that they need not be read out of a stream again.

const { types } = require('node:util')

const { isSanfran, writeOwnHead } = require('./headers.js')
const { copyHeaders, replaceGlobal, standFor } = require('./web-forward.js')
const { isHopByHop, undecoded, withoutNamed } = require('./web-headers.js')

const { FormData, Headers, Response, WeakSet } = globalThis
const { apply, construct } = Reflect
const { arrayBuffer } = Response.prototype
const bodyOf = Object.getOwnPropertyDescriptor(Response.prototype, 'body').get
const { byteLength, from } = Buffer
const { stringify } = JSON
const { keys } = Object
const { getOwnPropertySymbols, getPrototypeOf } = Object

const TEXT = 'text/plain;charset=UTF-8'
const JSON_TYPE = 'application/json'

// Names and values that need neither a check nor a change.
const NAME = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const VALUE = /^(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?$/

/** Streams that Node's own class has made of a FormData, see mustNotBeCancelled. */
const forms = new WeakSet()

/**
 * Whether to cancel a Response's body would end the process: Node's stream of a
 * FormData goes on writing, and nobody catches what that throws. It holds nothing
 * that would have to be let go of. The streams of clones and of other copies of
 * undici are known by the content type alone.
 */
const mustNotBeCancelled = ({ url, headers }, body) =>
  forms.has(body) || !url && /^multipart\/form-data; *boundary=-+formdata-undici-/.test(headers.get?.('content-type'))

class WebResponse {
  #body // string, Buffer or null
  #status
  #statusText
  #list // [name, value, …], while nobody has looked at the headers
  #headers // Headers, if there is no list
  #native = null
  #sent = false

  constructor(body, status, statusText, list, headers) {
    this.#body = body
    this.#status = status
    this.#statusText = statusText
    this.#list = list
    this.#headers = headers
  }

  static is(value) {
    return typeof value === 'object' && value !== null && #native in value
  }

  /** The Response of Node's own class behind a WebResponse. */
  static native(response) {
    if (response.#native === null) {
      const native = new Response(response.#body, {
        status: response.#status,
        statusText: response.#statusText,
        headers: response.#headers ?? pairs(response.#list),
      })
      if (response.#sent && native.body !== null) apply(arrayBuffer, native, []) // so that it knows
      response.#native = native
      response.#headers ??= native.headers
      response.#list = null
    }
    copyHeaders(response.#headers, response.#native.headers)
    return response.#native
  }

  /**
   * Answers with a response whose body nobody has read.
   *
   * @param {unknown} response
   * @param {import('./message.js').FunctionRequest} req
   * @param {import('./message.js').FunctionResponse} res
   * @returns {boolean} whether it could; if not, nothing was done
   */
  static answered(response, req, res) {
    if (!WebResponse.is(response)) return false
    const native = response.#native
    const body = response.#body
    if (body !== null) {
      if (response.#sent || native !== null && (native.bodyUsed || native.body.locked)) return false
      response.#sent = true
      if (native !== null) apply(arrayBuffer, native, [])
    }
    const head = response.#list ?? [...response.#headers].flat()
    let sent = []
    let sized = false
    let connection
    for (let i = 0; i < head.length; i += 2) {
      const name = head[i]
      if (isSanfran(name)) continue
      if (isHopByHop(name)) {
        if (name.length === 10 && name.toLowerCase() === 'connection') connection = head[i + 1]
        continue
      }
      sized ||= isLength(name)
      sent.push(name, head[i + 1])
    }
    if (connection !== undefined) sent = withoutNamed(sent, connection)
    const status = response.#status
    if (!sized && status !== 204 && status !== 304) sent.push('content-length', body === null ? 0 : byteLength(body))
    if (response.#statusText !== '') res.statusMessage = response.#statusText
    writeOwnHead(res, status, sent)
    if (body === null || req.method === 'HEAD') res.end()
    // Node writes head and text as one, in one encoding.
    else if (response.#list === null && typeof body === 'string') res.end(from(body))
    else res.end(body)
    return true
  }

  get status() {
    return this.#status
  }

  get statusText() {
    return this.#statusText
  }

  get ok() {
    return this.#status >= 200 && this.#status <= 299
  }

  get headers() {
    if (this.#list !== null) {
      const headers = this.#headers = new Headers()
      for (let i = 0; i < this.#list.length; i += 2) headers.append(this.#list[i], this.#list[i + 1])
      this.#list = null
    }
    return this.#headers
  }

  get bodyUsed() {
    return this.#native === null ? this.#sent && this.#body !== null : this.#native.bodyUsed
  }
}

const pairs = (list) => list.flatMap((item, i) => (i % 2 === 0 ? [[item, list[i + 1]]] : []))

const isLength = (name) => name.length === 14 && name.toLowerCase() === 'content-length'

/**
 * A response of what new Response(body, init) got, or undefined where Node's
 * own class shall make it: because the body is a stream, or something is wrong.
 *
 * @param {string|Buffer|null} body
 * @param {string|undefined} type the content type that the body brings
 * @param {number} [status]
 * @param {string} [statusText]
 * @param {unknown} [init] of headers
 */
function light(body, type, status = 200, statusText = '', init = undefined) {
  if (typeof status !== 'number' || !(status >= 200 && status <= 599) || status % 1 !== 0) return undefined
  if (body !== null && (status === 204 || status === 205 || status === 304)) return undefined
  if (typeof statusText !== 'string' || statusText !== '' && !VALUE.test(statusText)) return undefined
  const list = init === undefined ? [] : plainHeaders(init)
  if (list !== undefined) {
    if (type !== undefined && !list.some((item, i) => i % 2 === 0 && item.length === 12 && item.toLowerCase() === 'content-type')) {
      list.push('content-type', type)
    }
    return new WebResponse(body, status, statusText, list, null)
  }
  if (init === null || typeof init !== 'object') return undefined
  let headers
  try {
    headers = new Headers(init)
  } catch {
    return undefined // Node's own class finds it again, and says so in its words
  }
  if (type !== undefined && !headers.has('content-type')) headers.append('content-type', type)
  return new WebResponse(body, status, statusText, null, headers)
}

// The names and values of a plain object of strings, or undefined if it is more.
function plainHeaders(init) {
  if (init === null || typeof init !== 'object' || getPrototypeOf(init) !== Object.prototype) return undefined
  if (getOwnPropertySymbols(init).length > 0) return undefined
  const names = keys(init)
  const list = []
  for (let i = 0; i < names.length; i++) {
    const name = names[i]
    const value = init[name]
    if (typeof value !== 'string' || !VALUE.test(value) || !NAME.test(name)) return undefined
    list.push(name, value)
  }
  return names.length > 1 && hasTwice(names) ? undefined : list
}

const hasTwice = (names) => new Set(names.map((name) => name.toLowerCase())).size < names.length

// Bytes are copied when a Response is made of them, as the standard says.
function bytesOf(body) {
  if (types.isArrayBuffer(body)) return body.resizable ? undefined : from(body.slice(0))
  if (!types.isUint8Array(body) || !types.isArrayBuffer(body.buffer) || body.buffer.resizable) return undefined
  return from(body)
}

function make(body, init) {
  const given = init === undefined || init === null ? {} : init
  if (typeof given !== 'object') return undefined
  let source = null
  let type
  if (typeof body === 'string') {
    source = body
    type = TEXT
  } else if (body !== undefined && body !== null) {
    source = bytesOf(body)
    if (source === undefined) return undefined
  }
  const { status, statusText, headers } = given
  return light(source, type, status, statusText, headers) ?? new Response(body, { status, statusText, headers })
}

const isNative = (value) => value instanceof Response

const WebResponseConstructor = new Proxy(Response, {
  construct(target, args, newTarget) {
    args = undecoded(args, isNative)
    const response = newTarget === WebResponseConstructor && make(args[0], args[1]) || construct(target, args, newTarget)
    if (args[0] instanceof FormData) forms.add(apply(bodyOf, response, []))
    return response
  },
})

const nativeJson = Response.json
const { json } = {
  json(data, init = undefined) {
    if (arguments.length > 0 && (typeof init === 'object' || init === undefined)) {
      const text = stringify(data)
      const { status, statusText, headers } = init ?? {}
      const response = text === undefined ? undefined : light(text, JSON_TYPE, status, statusText, headers)
      if (response !== undefined) return response
    }
    return apply(nativeJson, Response, arguments)
  },
}

standFor(WebResponse, Response, WebResponse.native)
Object.defineProperty(Response.prototype, 'constructor', { value: WebResponseConstructor })
Object.defineProperty(Response, 'json', { value: json })
replaceGlobal('Response', WebResponseConstructor)

/**
 * Whether a value is a Response, of Node's own class or of another copy that a
 * package brings (undici, node-fetch, @whatwg-node/fetch).
 */
function isResponse(value) {
  if (isNative(value)) return true
  return value !== null && typeof value === 'object' && Number.isInteger(value.status) && 'body' in value &&
    typeof value.headers?.[Symbol.iterator] === 'function'
}

module.exports = { WebResponse, isResponse, mustNotBeCancelled }
