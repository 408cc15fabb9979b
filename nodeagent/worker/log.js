'use strict'

// The function's log. What JavaScript writes by process.stdout, process.stderr
// and console goes to the agent in frames over one inherited pipe, so that the
// order of both streams is exact and each piece names its request. It is written
// at once, as to a file: nothing is lost when the process ends right after, and a
// function that writes faster than the agent reads waits. Descriptors 1 and 2
// stay plain pipes, for native code and for programs that the function starts.

const { AsyncLocalStorage } = require('node:async_hooks')
const fs = require('node:fs')

const LOG_FD = 5

/**
 * One frame: twelve bytes, the request's id and the payload. The twelve are MARK,
 * the stream, the id's length, 0, then the request's number and the payload's
 * length, four bytes each, the lowest first.
 */
const MARK = 0x1e
const HEADER = 12
const MAX_ID = 128
const MAX_PAYLOAD = 64 << 10

/** The streams of frames. WORKER is for the agent's own log, not the function's. */
const STDOUT = 1
const STDERR = 2
const WORKER = 3

// Function code may change all of these later.
const { apply } = Reflect
const { defineProperty, getOwnPropertyDescriptor } = Object
const { Buffer, Int32Array, SharedArrayBuffer } = globalThis
const { from } = Buffer
const { utf8Write, latin1Write } = Buffer.prototype
const { set, subarray } = Uint8Array.prototype
const { charCodeAt } = String.prototype
const { wait } = Atomics
const { writeSync } = fs
const { enterWith, getStore } = AsyncLocalStorage.prototype

const requests = new AsyncLocalStorage()
const frame = Buffer.allocUnsafeSlow(HEADER + MAX_ID + MAX_PAYLOAD)
const pause = new Int32Array(new SharedArrayBuffer(4))
let numbers = 0

/** What the log knows of a request: no more, or a timer would keep the request. */
class Request {
  number = 0 // given with its first line
  constructor(id) {
    this.id = id
  }
}

/**
 * From here on what is written is of this request, and so is what is begun from
 * here: promises, timers, callbacks.
 *
 * @param {string | undefined} id the request's X-Request-Id
 * @returns {Request} to be entered again by callbacks that are not begun here
 */
function begin(id) {
  const request = new Request(id)
  apply(enterWith, requests, [request])
  return request
}

/** Takes up a request in a callback that was not begun in it. */
const enter = (request) => apply(enterWith, requests, [request])

// Most ids are as they should be; others are cut, and stripped of what would end
// a field of the log.
function idBytes(id) {
  if (typeof id !== 'string') return 0
  const length = id.length < MAX_ID ? id.length : MAX_ID
  for (let i = 0; i < length; i++) {
    const code = apply(charCodeAt, id, [i])
    frame[HEADER + i] = code > 0x20 && code < 0x7f ? code : 0x5f
  }
  return length
}

// Fills in the head of a frame and returns where its payload begins.
function head(stream) {
  const request = stream === WORKER ? undefined : apply(getStore, requests, [])
  let length = 0
  let number = 0
  if (request !== undefined) {
    if (request.number === 0) request.number = ++numbers >>> 0
    number = request.number
    length = idBytes(request.id)
  }
  frame[0] = MARK
  frame[1] = stream
  frame[2] = length
  frame[3] = 0
  put32(4, number)
  return HEADER + length
}

function put32(at, value) {
  frame[at] = value
  frame[at + 1] = value >>> 8
  frame[at + 2] = value >>> 16
  frame[at + 3] = value >>> 24
}

// Writes all of the frame. The pipe blocks, unless function code has changed that.
function flush(end) {
  for (let at = 0; at < end;) {
    try {
      at += writeSync(LOG_FD, frame, at, end - at)
    } catch (error) {
      if (error.code === 'EPIPE') return // the agent is gone, and this process about to be
      if (error.code !== 'EAGAIN') throw error
      wait(pause, 0, 0, 1)
    }
  }
}

/**
 * Writes into the log.
 *
 * @param {number} stream
 * @param {string | Uint8Array} chunk
 * @param {string} [encoding] of a string
 * @returns {number} how many bytes that is
 */
function write(stream, chunk, encoding) {
  if (chunk.length === 0) return 0
  const start = head(stream)
  if (typeof chunk === 'string') {
    // Three bytes are the most that a UTF-16 unit takes.
    if (chunk.length <= MAX_PAYLOAD / 3) {
      const text = encoding === undefined || encoding === 'utf8' || encoding === 'utf-8' ? utf8Write
        : encoding === 'latin1' || encoding === 'binary' ? latin1Write : null
      if (text !== null) {
        const length = apply(text, frame, [chunk, start])
        put32(8, length)
        flush(start + length)
        return length
      }
    }
    chunk = apply(from, Buffer, [chunk, encoding])
  }
  const { length } = chunk
  for (let at = 0; at < length;) {
    const size = length - at < MAX_PAYLOAD ? length - at : MAX_PAYLOAD
    apply(set, frame, [apply(subarray, chunk, [at, at + size]), start])
    put32(8, size)
    flush(start + size)
    at += size
  }
  return length
}

/** Tells the agent something that is not for the function's log. */
const report = (text) => {
  write(WORKER, text + '\n')
}

/**
 * Leads process.stdout and process.stderr, and with them console, into frames.
 * They stay the streams that Node makes for a pipe when they are first looked at;
 * only where their bytes go is another.
 */
function install() {
  const stat = fs.fstatSync(LOG_FD)
  if (!stat.isFIFO() && !stat.isSocket()) {
    throw new Error(`descriptor ${LOG_FD} must be a pipe: it carries the function's log`)
  }
  for (const [name, stream] of [['stdout', STDOUT], ['stderr', STDERR]]) {
    const descriptor = getOwnPropertyDescriptor(process, name)
    const { get } = descriptor
    let made
    descriptor.get = () => made ??= redirect(apply(get, process, []), stream)
    defineProperty(descriptor.get, 'name', { value: get.name, configurable: true })
    defineProperty(process, name, descriptor)
  }
}

function redirect(writable, stream) {
  let written = 0
  const hide = (key, descriptor) => defineProperty(writable, key, { configurable: true, enumerable: false, ...descriptor })
  const put = (chunks, done) => {
    try {
      for (let i = 0; i < chunks.length; i++) written += write(stream, chunks[i].chunk, chunks[i].encoding)
    } catch (error) {
      done(error)
      return
    }
    done()
  }
  hide('_write', { writable: true, value: (chunk, encoding, done) => put([{ chunk, encoding }], done) })
  hide('_writev', { writable: true, value: put })
  hide('bytesWritten', { get: () => written })
  return writable
}

module.exports = { begin, enter, install, report }
