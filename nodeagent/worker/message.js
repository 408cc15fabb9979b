'use strict'

// The request and the response that functions get: Node's, with Express's
// methods. They are classes handed to the HTTP server and not prototypes set
// on each message, which costs a third of the throughput.

const http = require('node:http')

const { answerError, answerFailure } = require('./answers.js')
const body = require('./body.js')
const { Stamp } = require('./connections.js')
const { apps, cookie, cookieParser, lend, request, response } = require('./express.js')
const headers = require('./headers.js')
const log = require('./log.js')

const { nextTick } = process
const { apply } = Reflect
const { getPrototypeOf } = Object
const { latin1Slice } = Buffer.prototype

/** Most bytes of a body that is written with its head. */
const SMALL = 16 << 10

/** By what an upgrade's request, which has no response, is found behind a Proxy. */
const itself = Symbol('request')

/** How long a body is collected, and for whom. */
class Collected {
  received = 0
  tooLarge = false
  value = undefined
  parsed = false
  failure = undefined

  constructor(parser, call) {
    this.parser = parser
    this.call = call
  }
}

// Adds a property to an object that had it from an accessor of its prototype,
// as an assignment would.
function own(object, key, value) {
  Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true })
  return value
}

// All that a stream has buffered; Node.js 26 gives it in pieces.
function buffered(stream) {
  const pieces = []
  for (let piece; (piece = stream.read()) !== null;) {
    pieces.push(typeof piece === 'string' ? Buffer.from(piece, stream.readableEncoding) : piece)
  }
  return pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)
}

// Cookies as the middleware cookie-parser gives them; the secrets are those of
// req.secret, which a function sets before it looks at signed ones.
function parseCookies(req) {
  const cookies = cookie.parse(req.headers.cookie ?? '')
  const secrets = req.secret === undefined ? [] : [req.secret].flat()
  const signed = secrets.length > 0 ? cookieParser.signedCookies(cookies, secrets) : Object.create(null)
  own(req, 'signedCookies', cookieParser.JSONCookies(signed))
  own(req, 'cookies', cookieParser.JSONCookies(cookies))
  return req
}

/** An incoming request. */
class FunctionRequest extends http.IncomingMessage {
  #lease = undefined
  #client = undefined
  #proxied = false
  #body = null
  #next = null
  #log = undefined

  static is(message) {
    return #lease in message
  }

  // The request that an object stands for which a function has made of it, by
  // Object.create or as a Proxy; undefined if it cannot be found.
  static #behind(object) {
    for (let o = object; o !== null; o = getPrototypeOf(o)) if (#lease in o) return o
    const req = object.res?.req ?? object[itself] // which a Proxy reads of the request
    return typeof req === 'object' && req !== null && #lease in req ? req : undefined
  }

  /** Takes SanFran's headers out of those just received, keeping what they say. */
  static received(message, list, n) {
    return headers.stripRaw(list, n, (name, value) => {
      if (message.complete) return
      // Said twice, it is nobody's.
      if (headers.isNamed(name, 'sanfran-lease')) message.#lease = message.#lease === undefined ? value : ''
      else if (headers.isNamed(name, 'sanfran-client')) message.#client = message.#client === undefined ? value : ''
    })
  }

  /** What Sanfran-Lease said, or undefined. */
  static lease(message) {
    return message.#lease
  }

  /** What Sanfran-Client said, or undefined. Only with the lease it is true. */
  static client(message) {
    return message.#client
  }

  /**
   * Makes the request ready for function code: what is written from here on is
   * logged as this request's.
   *
   * @param {FunctionRequest} message
   * @param {FunctionResponse | undefined} res undefined for an upgrade's
   * @param {boolean} proxied whether forwarded headers are a gateway's
   * @returns {object} what the log knows of the request
   */
  static prepare(message, res, proxied) {
    message.#proxied = proxied
    message.res = res
    if (res === undefined) Object.defineProperty(message, itself, { value: message })
    message.originalUrl = message.url
    message.baseUrl = ''
    return (message.#log = log.begin(message.headers['x-request-id']))
  }

  /**
   * Calls back when req.body can be read, which is at once for a body that is
   * not parsed or is known to be too large to be.
   */
  static whenBody(message, call) {
    const parser = body.parserFor(message.headers)
    if (parser === undefined) return call()
    const collected = message.#body = new Collected(parser, call)
    if (Number(message.headers['content-length']) > body.LIMIT) {
      collected.tooLarge = true
      collected.call = null
      return call()
    }
  }

  // Node's parser pushes what it reads, and stops reading when push says so. A
  // body that is waited for may fill the buffer up to the limit.
  push(chunk, encoding) {
    const more = super.push(chunk, encoding)
    const collected = #lease in this ? this.#body : null
    if (collected === null || collected.call === null) return more
    if (chunk !== null) {
      collected.received += chunk.length
      if (collected.received <= body.LIMIT) return true
      collected.tooLarge = true
    }
    const { call } = collected
    collected.call = null
    log.enter(this.#log)
    // Not before the parser has heard whether to stop reading: what the
    // function makes it read would be stopped for ever.
    if (chunk === null) call()
    else nextTick(call)
    return more
  }

  get body() {
    if (!(#lease in this)) return FunctionRequest.#behind(this)?.body
    const collected = this.#body
    if (collected === null) return undefined
    if (collected.parsed) return collected.value
    if (collected.failure !== undefined) throw collected.failure
    if (this.readableDidRead || this.readableEnded) return undefined // the function reads the stream
    if (collected.tooLarge) throw body.tooLarge(Number(this.headers['content-length']) || undefined)
    try {
      collected.value = body.parse(collected.parser, this.headers, buffered(this))
    } catch (error) {
      throw collected.failure = error // as often as the body is asked for
    }
    collected.parsed = true
    return collected.value
  }

  set body(value) {
    own(this, 'body', value)
  }

  get app() {
    if (!(#lease in this)) return FunctionRequest.#behind(this)?.app
    return this.#proxied ? apps.proxied : apps.direct
  }

  set app(value) {
    own(this, 'app', value)
  }

  get params() {
    return own(FunctionRequest.#behind(this) ?? this, 'params', {})
  }

  set params(value) {
    own(this, 'params', value)
  }

  get cookies() {
    return parseCookies(FunctionRequest.#behind(this) ?? this).cookies
  }

  set cookies(value) {
    own(this, 'cookies', value)
  }

  get signedCookies() {
    return parseCookies(FunctionRequest.#behind(this) ?? this).signedCookies
  }

  set signedCookies(value) {
    own(this, 'signedCookies', value)
  }

  get next() {
    if (!(#lease in this)) return FunctionRequest.#behind(this)?.next
    return (this.#next ??= (error) => {
      // 'route' and 'router' leave what Express would go on with outside of it, too.
      if (error && error !== 'route' && error !== 'router') answerFailure(this, this.res, error)
      else answerError(this, this.res, 404, 'NotFound', `the function passed on ${this.method} ${this.originalUrl}`)
    })
  }

  set next(value) {
    own(this, 'next', value)
  }
}

/** The response to a FunctionRequest. */
class FunctionResponse extends http.ServerResponse {
  #ours = true

  static is(message) {
    return #ours in message
  }

  // Node writes head and body as one where both are texts, which costs a tenth of
  // a small answer less than two pieces. Latin-1 gives every byte as it is.
  end(chunk, encoding, callback) {
    if (encoding === undefined && !this._headerSent && Buffer.isBuffer(chunk) && chunk.length <= SMALL) {
      return super.end(apply(latin1Slice, chunk, []), 'latin1', callback)
    }
    return super.end(chunk, encoding, callback)
  }

  get app() {
    return this.req.app
  }

  set app(value) {
    own(this, 'app', value)
  }

  get locals() {
    let res = this
    while (res !== null && !(#ours in res)) res = getPrototypeOf(res) // of Object.create's
    return own(res ?? this, 'locals', Object.create(null))
  }

  set locals(value) {
    own(this, 'locals', value)
  }
}

const isGateways = (socket) => typeof socket === 'object' && socket !== null && Stamp.get(socket) !== undefined

lend(request, FunctionRequest.prototype)
lend(response, FunctionResponse.prototype)
// To a function they are of Node's classes, as Express's are.
delete FunctionRequest.prototype.constructor
delete FunctionResponse.prototype.constructor
headers.install({
  isRequest: FunctionRequest.is,
  received: FunctionRequest.received,
  // Also those of a server of the function's own, on a gateway's connection.
  isResponse: (message) => FunctionResponse.is(message) || isGateways(message.req?.socket),
})

module.exports = { FunctionRequest, FunctionResponse }
