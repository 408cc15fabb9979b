'use strict'

// The control protocol with the agent: JSON messages, one a line, over the
// connected unix stream socket that the container inherits.

const net = require('node:net')

// Taken before any function code runs: what a function does to the globals and
// prototypes that it shares with the worker must not change the protocol.
const { parse, stringify } = JSON
const { apply } = Reflect
const { write, unref } = net.Socket.prototype
const { concat } = Buffer
const { indexOf, subarray, toString } = Buffer.prototype

/** Most bytes of one message, its line feed not counted. */
const MAX_LINE = 1 << 20
const LINE_FEED = 10

class Control {
  #socket
  #partial = []
  #partialLength = 0
  #receive
  #broken

  /**
   * @param {number|net.Socket} fd the inherited socket
   * @param {object} events
   * @param {(message: object) => void} events.receive one message of the agent
   * @param {(reason: string|null) => void} events.broken the agent is gone
   *   (null) or does not speak the protocol (why)
   */
  constructor(fd, { receive, broken }) {
    this.#receive = receive
    this.#broken = broken
    this.#socket = typeof fd === 'number' ? new net.Socket({ fd, readable: true, writable: true }) : fd
    this.#socket.on('data', (chunk) => this.#data(chunk))
    this.#socket.on('end', () => this.#broken(null))
    this.#socket.on('error', () => this.#broken(null))
    this.#socket.on('close', () => this.#broken(null))
    // The HTTP server keeps the process alive; this socket is no active handle
    // in a function's eyes.
    apply(unref, this.#socket, [])
  }

  /**
   * Sends one message.
   *
   * @param {object} message
   * @param {() => void} [written] called when the kernel has it
   */
  send(message, written) {
    apply(write, this.#socket, [stringify({ __proto__: null, ...message }) + '\n', 'utf8', written])
  }

  #data(chunk) {
    let start = 0
    for (;;) {
      const end = apply(indexOf, chunk, [LINE_FEED, start])
      const part = apply(subarray, chunk, [start, end < 0 ? chunk.length : end])
      if (this.#partialLength + part.length > MAX_LINE) {
        return this.#broken(`a line is longer than ${MAX_LINE} bytes`)
      }
      if (part.length > 0) this.#partial[this.#partial.length] = part
      this.#partialLength += part.length
      if (end < 0) return
      const line = apply(toString, this.#partial.length === 1 ? this.#partial[0] : concat(this.#partial), ['utf8'])
      this.#partial = []
      this.#partialLength = 0
      start = end + 1
      let message
      try {
        message = parse(line)
      } catch (error) {
        return this.#broken(`a line is not JSON: ${error.message}`)
      }
      if (message === null || typeof message !== 'object') return this.#broken('a line is not a JSON object')
      this.#receive(message)
    }
  }
}

module.exports = { Control, MAX_LINE }
