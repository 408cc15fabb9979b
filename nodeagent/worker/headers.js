'use strict'

// SanFran's own headers: Sanfran-* never reaches a function and never leaves
// it. They are taken out where Node itself collects and writes headers, so
// that it holds also for an Express application, which gives the request and
// the response prototypes of its own.

const http = require('node:http')

const { apply } = Reflect
const { isArray } = Array
const { splice } = Array.prototype
const { charCodeAt, slice, toLowerCase } = String.prototype

const PREFIX = 'sanfran-'
const LOWER_S = 's'.charCodeAt(0)

/**
 * Says whether a header or trailer of this name, in any case, is SanFran's.
 *
 * @param {string} name
 */
function isSanfran(name) {
  return name.length > PREFIX.length &&
    (apply(charCodeAt, name, [0]) | 32) === LOWER_S &&
    apply(toLowerCase, apply(slice, name, [0, PREFIX.length]), []) === PREFIX
}

/** Whether a header of SanFran's is the one of this name, which is in lower case. */
const isNamed = (name, lower) => name.length === lower.length && apply(toLowerCase, name, []) === lower

/**
 * Removes SanFran's headers from a flat list [name, value, name, value, …] in
 * place.
 *
 * @param {string[]} list
 * @param {number} n how many items of the list count
 * @param {(name: string, value: string) => void} removed told of each
 * @returns {number} how many items count now
 */
function stripRaw(list, n, removed) {
  for (let i = 0; i < n;) {
    if (isSanfran(list[i])) {
      removed(list[i], list[i + 1])
      apply(splice, list, [i, 2])
      n -= 2
    } else {
      i += 2
    }
  }
  return n
}

/** A copy of what writeHead, writeInformation or addTrailers got, without SanFran's headers. */
function withoutSanfran(headers) {
  if (isArray(headers)) {
    if (isArray(headers[0])) return headers.filter(([name]) => !isSanfran(String(name)))
    const kept = []
    for (let i = 0; i < headers.length; i += 2) {
      if (!isSanfran(String(headers[i]))) kept.push(headers[i], headers[i + 1])
    }
    return kept
  }
  const kept = {}
  for (const name of Object.keys(headers)) {
    if (!isSanfran(name)) kept[name] = headers[name]
  }
  return kept
}

const hasSanfran = (headers) =>
  isArray(headers) ? headers.flat().some((item) => typeof item === 'string' && isSanfran(item)) : Object.keys(headers).some(isSanfran)

// Whether a message of this process was ever given a header of SanFran's by name.
// Hardly any function does so, and to list an answer's headers costs more than the
// rest of this file.
let everSet = false

const { addTrailers, appendHeader, setHeader } = http.OutgoingMessage.prototype
const { writeHead, writeInformation } = http.ServerResponse.prototype
const addHeaderLines = http.IncomingMessage.prototype._addHeaderLines

/**
 * Makes Node's prototypes strip SanFran's headers of the requests and responses
 * that `isRequest` and `isResponse` recognize; all others are left alone.
 *
 * @param {object} kinds
 * @param {(message: http.IncomingMessage) => boolean} kinds.isRequest
 * @param {(message: http.IncomingMessage, headers: string[], n: number) => number} kinds.received
 *   takes SanFran's headers out of the list, in place, and returns its new length
 * @param {(message: http.ServerResponse) => boolean} kinds.isResponse
 */
function install({ isRequest, received, isResponse }) {
  replaceMethod(http.IncomingMessage.prototype, '_addHeaderLines', function _addHeaderLines(headers, n) {
    if (isRequest(this) && headers) n = received(this, headers, n)
    return apply(addHeaderLines, this, [headers, n])
  })

  replaceMethod(http.OutgoingMessage.prototype, 'setHeader', function setHeader_(name, value) {
    everSet ||= typeof name === 'string' && isSanfran(name)
    return apply(setHeader, this, [name, value])
  })

  replaceMethod(http.OutgoingMessage.prototype, 'appendHeader', function appendHeader_(name, value) {
    everSet ||= typeof name === 'string' && isSanfran(name)
    return apply(appendHeader, this, [name, value])
  })

  replaceMethod(http.ServerResponse.prototype, 'writeHead', function writeHead_(status, reason, headers) {
    if (!isResponse(this)) return apply(writeHead, this, arguments)
    if (everSet) {
      const names = this.getHeaderNames()
      for (let i = 0; i < names.length; i++) {
        if (isSanfran(names[i])) this.removeHeader(names[i])
      }
    }
    if (typeof reason === 'object' && reason !== null && hasSanfran(reason)) reason = withoutSanfran(reason)
    if (headers && hasSanfran(headers)) headers = withoutSanfran(headers)
    return apply(writeHead, this, [status, reason, headers])
  })
  // Another name of the same method, which Node.js 26 no longer has.
  if (Object.hasOwn(http.ServerResponse.prototype, 'writeHeader')) {
    replaceMethod(http.ServerResponse.prototype, 'writeHeader', http.ServerResponse.prototype.writeHead)
  }

  // Also of writeEarlyHints, which calls it.
  replaceMethod(http.ServerResponse.prototype, 'writeInformation', function writeInformation_(status, headers, callback) {
    if (isResponse(this) && headers && hasSanfran(headers)) headers = withoutSanfran(headers)
    return apply(writeInformation, this, [status, headers, callback])
  })

  replaceMethod(http.OutgoingMessage.prototype, 'addTrailers', function addTrailers_(headers) {
    if (isResponse(this) && headers && hasSanfran(headers)) headers = withoutSanfran(headers)
    return apply(addTrailers, this, [headers])
  })
}

// Replaces a method and keeps its descriptor's attributes, name and arity.
function replaceMethod(prototype, key, value) {
  const { enumerable, configurable, writable, value: old } = Object.getOwnPropertyDescriptor(prototype, key)
  if (value !== old && old) {
    Object.defineProperty(value, 'name', { value: old.name, configurable: true })
    Object.defineProperty(value, 'length', { value: old.length, configurable: true })
  }
  Object.defineProperty(prototype, key, { enumerable, configurable, writable, value })
}

/** Writes a response's head as it is, SanFran's headers included. */
const writeOwnHead = (res, status, headers) => apply(writeHead, res, [status, headers])

module.exports = { install, isNamed, isSanfran, replaceMethod, stripRaw, writeOwnHead }
