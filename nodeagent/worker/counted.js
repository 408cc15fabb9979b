'use strict'

// A request is in flight until its response is over: all of it is written, and
// Node takes it off its socket. It is counted there and not by an event of the
// response, of which a function may remove all listeners, or put an `emit` of its
// own in the way.

const http = require('node:http')

const { Returns, Stamp } = require('./connections.js')
const { replaceMethod } = require('./headers.js')

const { apply } = Reflect
const { detachSocket } = http.ServerResponse.prototype

/** Keeps in a private field of a response the connection that it counts on. */
class Counted extends Returns {
  #connection = null

  /** From now on, until it is over, a response counts on its connection. */
  static begin(res, connection) {
    new Counted(res).#connection = connection
  }

  /** Whether a response has begun to count, and may be over since. */
  static has(res) {
    return #connection in res
  }

  // A response that is not written to its end takes its connection with it, until
  // another one that the function puts in its place is over, or the connection
  // closes.
  static detached(res, socket) {
    const connection = #connection in res ? res.#connection : standsFor(res, socket)
    if (connection === null) return
    if (!res.writableEnded) {
      connection.taken = true
      return
    }
    if (#connection in res) res.#connection = null
    connection.taken = false
    connection.counter.responded(connection, socket)
  }
}

// The connection that was taken from a response for this one; null: none was.
function standsFor(res, socket) {
  const connection = Stamp.get(socket)
  return connection?.taken ? connection : null
}

// Node does this when all is written; a function, before it takes the connection
// over. An Express application gives its responses a prototype of its own, which
// inherits this one's method.
replaceMethod(http.ServerResponse.prototype, 'detachSocket', function detachSocket_(socket) {
  apply(detachSocket, this, [socket])
  Counted.detached(this, socket)
})

module.exports = { Counted }
