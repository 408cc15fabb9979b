'use strict'

// Node's HTTP parsers, of connections that the worker knows. A parser calls back in
// the context in which its connection was accepted, so that all of a body but what
// came with the headers, and its end, would be no request's in the log.

const { Stamp } = require('./connections.js')
const { stripRaw } = require('./headers.js')
const log = require('./log.js')

const { apply } = Reflect

/** The connection of a parser's socket; undefined if it has none, or that is not the worker's. */
const connectionOf = (socket) => (socket ? Stamp.get(socket) : undefined)

/** Under which numbers a parser keeps Node's own callbacks, and these; found with the first one. */
let callbacks

function callbacksOf(parser) {
  const find = (name) => {
    for (let index = 0; index < 16; index++) {
      if (typeof parser[index] === 'function' && parser[index].name === name) return { index, original: parser[index] }
    }
    throw new Error(`the HTTP parser of this Node.js has no ${name}`)
  }
  return (callbacks ??= {
    headersComplete: find('parserOnHeadersComplete'),
    body: find('parserOnBody'),
    messageComplete: find('parserOnMessageComplete'),
  })
}

/** Has what a request's body calls of the function be logged as that request's. */
function follow(parser) {
  const { body, messageComplete } = callbacksOf(parser)
  parser[body.index] = onBody
  parser[messageComplete.index] = onMessageComplete
}

// Parsers are used again for other connections, clients' among them; a callback
// that finds itself there leaves.
function onBody(bytes) {
  const connection = connectionOf(this.socket)
  const { index, original } = callbacks.body
  if (connection === undefined) this[index] = original
  else enter(connection.logged, this.incoming)
  return apply(original, this, [bytes])
}

function onMessageComplete() {
  // The end of most requests, which have no body: nobody hears of it.
  if (this._headers.length === 0 && (this.incoming === null || this.incoming._eventsCount === 0)) {
    return apply(callbacks.messageComplete.original, this, [])
  }
  const connection = connectionOf(this.socket)
  const { index, original } = callbacks.messageComplete
  if (connection === undefined) {
    this[index] = original
  } else {
    if (connection.gate !== null && this._headers.length > 0) stripRaw(this._headers, this._headers.length, drop) // trailers
    enter(connection.logged, this.incoming)
  }
  return apply(original, this, [])
}

const drop = () => {}

// Who listens is called from here; of most requests without a body nobody is.
function enter(logged, incoming) {
  if (logged !== undefined && incoming !== null && incoming._eventsCount > 0) log.enter(logged)
}

module.exports = { callbacksOf, connectionOf, follow }
