'use strict'

// req.body is parsed when the function reads it, by Express's own parsers, out
// of what the request's stream has buffered. A function that reads the stream
// instead finds it untouched.

const { EventEmitter } = require('node:events')
const zlib = require('node:zlib')

const { bodyParser, contentType, createError } = require('./express.js')

/** Most bytes of a body that is parsed, before and after decompression. */
const LIMIT = 1 << 20

const options = { limit: LIMIT }
const json = bodyParser.json({ ...options, type: () => true })
const urlencoded = bodyParser.urlencoded({ ...options, extended: true, type: () => true })
const text = bodyParser.text({ ...options, type: () => true })
const raw = bodyParser.raw({ ...options, type: () => true })

/**
 * Which of Express's parsers a request's body is for; undefined for a body that
 * is only ever a stream. A binary body of unknown length may be endless, and
 * its function waits for the first byte, not for the last.
 */
function parserFor(headers) {
  if (headers['transfer-encoding'] === undefined && headers['content-length'] === undefined) return undefined
  const header = headers['content-type']
  if (header === undefined) return undefined
  const end = header.indexOf(';')
  const type = (end < 0 ? header : header.slice(0, end)).trim().toLowerCase()
  if (type === 'application/json' || type.endsWith('+json')) return json
  if (type === 'application/x-www-form-urlencoded') return urlencoded
  if (type === 'text/event-stream') return undefined
  if (type.startsWith('text/')) return text
  if (type === 'application/octet-stream' && headers['content-length'] !== undefined) return raw
  return undefined
}

/** The error of a body that is larger than LIMIT: status 413, as Express's. */
function tooLarge(length) {
  return createError(413, 'request entity too large', { limit: LIMIT, length, type: 'entity.too.large' })
}

/**
 * Parses a whole body at once.
 *
 * @param {Function} parser what parserFor gave
 * @param {object} headers the request's
 * @param {Buffer} bytes the body as it came
 * @throws the errors of Express's parsers, with their status (400, 413, 415)
 */
function parse(parser, headers, bytes) {
  const encoding = headers['content-encoding']
  const stream = new Bytes()
  stream.headers = { 'content-type': headers['content-type'] }
  if (encoding && encoding.toLowerCase() !== 'identity') bytes = decompress(encoding.toLowerCase(), bytes)
  stream.headers['content-length'] = String(bytes.length)

  let failure
  parser(stream, null, (error) => {
    failure = error ?? null
  })
  if (failure === undefined) stream.flow(bytes)
  if (failure === undefined) throw unknownCharset(headers['content-type']) // the parser says so later
  if (failure !== null) throw failure
  return stream.body
}

function unknownCharset(type) {
  const { charset } = contentType.parse(type).parameters
  return createError(415, `unsupported charset "${charset.toUpperCase()}"`, { charset: charset.toLowerCase(), type: 'charset.unsupported' })
}

// A stream that has its bytes already: Express's parsers finish on it before
// they return.
class Bytes extends EventEmitter {
  flow(bytes) {
    this.complete = true // makes a parser that fails not wait for an end
    if (bytes.length > 0) this.emit('data', bytes)
    this.emit('end')
  }

  pause() {}
  resume() {}
  unpipe() {}
}

function decompress(encoding, bytes) {
  const by = {
    gzip: zlib.gunzipSync,
    deflate: zlib.inflateSync,
    br: zlib.brotliDecompressSync,
    zstd: zlib.zstdDecompressSync,
  }[encoding]
  if (by === undefined) {
    throw createError(415, `unsupported content encoding "${encoding}"`, { encoding, type: 'encoding.unsupported' })
  }
  try {
    return by(bytes, { maxOutputLength: LIMIT })
  } catch (error) {
    if (error.code === 'ERR_BUFFER_TOO_LARGE') throw tooLarge(undefined)
    throw createError(400, error)
  }
}

module.exports = { LIMIT, parserFor, parse, tooLarge }
