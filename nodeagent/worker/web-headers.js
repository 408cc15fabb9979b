'use strict'

// Which headers of a Response go out: not those that end at this connection, and
// not those of a body that fetch has decoded.

const { Headers, WeakSet } = globalThis

/** Headers of one connection (RFC 9110, section 7.6.1), which is not the function's. */
const HOP_BY_HOP = new Set(['connection', 'keep-alive', 'proxy-authenticate', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'])

/** Encodings that Node's fetch undoes; of a body that has another, too, it undoes none. */
const DECODED = new Set(['gzip', 'x-gzip', 'deflate', 'br', 'zstd'])

/** Whether a header of this name, in any case, ends at this connection. */
function isHopByHop(name) {
  switch (name.length) {
    case 2: case 7: case 10: case 16: case 17: case 18:
      return HOP_BY_HOP.has(name.toLowerCase())
  }
  return false
}

/**
 * Removes the headers that a Connection header names from a flat list
 * [name, value, name, value, …].
 */
function withoutNamed(list, connection) {
  const named = words(connection)
  const kept = []
  for (let i = 0; i < list.length; i += 2) {
    if (!named.includes(list[i].toLowerCase())) kept.push(list[i], list[i + 1])
  }
  return kept
}

const words = (value) => value.toLowerCase().split(',').map((word) => word.trim())

/** Whether a Response with these headers, if fetch gave it, is not encoded any more. */
function isDecoded(headers) {
  const encoding = headers.get?.('content-encoding')
  return Boolean(encoding) && words(encoding).every((coding) => DECODED.has(coding))
}

/** Bodies and headers of Responses of fetch that are decoded. */
const decoded = new WeakSet()
// Hardly any function has such, and all make Responses.
let any = false

/** Takes note of what fetch gave. */
function fetched(response) {
  if (isDecoded(response.headers)) {
    any = true
    decoded.add(response.headers)
    if (response.body !== null) decoded.add(response.body)
  }
  return response
}

/**
 * What new Response(body, init) is to be made with: of a Response that fetch has
 * decoded, or of its body or headers, without Content-Encoding and Content-Length.
 *
 * @param {unknown[]} args of the constructor
 * @param {(value: unknown) => boolean} isResponse
 */
function undecoded(args, isResponse) {
  const [body, init] = args
  if (!any || init === null || typeof init !== 'object') return args
  const { status, statusText, headers } = init
  if (!decoded.has(body) && !decoded.has(headers) && !(isResponse(init) && init.url && isDecoded(headers))) return args
  const kept = new Headers(headers)
  kept.delete('content-encoding')
  kept.delete('content-length')
  return [body, { status, statusText, headers: kept }]
}

module.exports = { fetched, isDecoded, isHopByHop, undecoded, withoutNamed }
