'use strict'

// An HTTP server of the function's own, as gateways' connections see it. Each of
// their requests shows the lease before anything of the function runs: the check
// stands where Node's parser hands over the headers, before there is a request
// object, and SanFran's headers are taken out there. Everything else is the
// function's server: its options, its classes of requests and responses, its
// listeners.

const http = require('node:http')
const net = require('node:net')

const { refuse } = require('./answers.js')
const { showClient } = require('./client.js')
const { Stamp } = require('./connections.js')
const { Counted } = require('./counted.js')
const { isNamed, stripRaw } = require('./headers.js')
const { equalInConstantTime } = require('./lease.js')
const log = require('./log.js')
const { callbacksOf, connectionOf, follow } = require('./parsers.js')
const { unseen } = require('./unseen.js')
const { refuseUpgrade } = require('./upgrade.js')

const { apply } = Reflect
const { create, defineProperties } = Object
const { on, listenerCount, rawListeners } = net.Server.prototype
const { ref, setTimeout, unref } = net.Socket.prototype
const { Socket } = net
const { nextTick } = process

// What Node keeps on a server under symbols of its own. They are found once, so
// that a Node that does not have them is seen before any function is.
const sample = new http.Server()
const [connectionListener] = sample.listeners('connection')
const [trackConnections] = sample.listeners('listening')
const symbolOf = (description) => {
  const found = Object.getOwnPropertySymbols(sample).find((symbol) => symbol.description === description)
  if (found === undefined) throw new Error(`this Node.js keeps no ${description} on an http.Server`)
  return found
}
const kIncomingMessage = symbolOf('IncomingMessage')
const kServerResponse = symbolOf('ServerResponse')
// A list that no timer looks at: requests on it never expire.
const { connections, list } = (() => {
  const before = Object.getOwnPropertySymbols(sample)
  apply(trackConnections, sample, [])
  const added = Object.getOwnPropertySymbols(sample).filter((symbol) => !before.includes(symbol))
  for (const symbol of added) clearInterval(sample[symbol])
  const connections = added.find((symbol) => typeof sample[symbol]?.idle === 'function')
  if (connections === undefined) throw new Error('this Node.js keeps no list of connections on an http.Server')
  return { connections, list: sample[connections] }
})()

/** A request that was refused before it was one. */
class RefusedRequest extends http.IncomingMessage {
  #refused = true
  static is(message) {
    return #refused in message
  }
}

// What the headers of the request at hand said, see onHeadersComplete.
let lease
let client
const note = (name, value) => {
  // Said twice, it is nobody's.
  if (isNamed(name, 'sanfran-lease')) lease = lease === undefined ? value : ''
  else if (isNamed(name, 'sanfran-client')) client = client === undefined ? value : ''
}

// Leaves a parser that is used again for another connection, see parsers.js.
function onHeadersComplete(major, minor, headers, method, url, status, message, upgrade, keepAlive) {
  const connection = connectionOf(this.socket)
  const gate = connection?.gate ?? null
  const { index, original } = callbacksOf(this).headersComplete
  if (gate === null) {
    this[index] = original
    return apply(original, this, arguments)
  }
  lease = client = undefined
  const given = headers === undefined ? this._headers : headers
  stripRaw(given, given.length, note)
  const parsed = [major, minor, headers, method, url, status, message, upgrade, keepAlive]
  if (!gate.admits(lease)) return gate.refusing(this.socket, () => apply(original, this, parsed))
  showClient(this.socket, connection, client)
  return apply(original, this, parsed)
}

function guard(parser) {
  parser[callbacksOf(parser).headersComplete.index] = onHeadersComplete
  follow(parser)
}

/** The way in of gateways to one http.Server of the function's. */
class Gate {
  #server
  #view
  #lease
  #connections
  #open // () => boolean
  #sockets = new Set()
  #refusing = false
  #closed = false

  /**
   * @param {http.Server} server
   * @param {object} rules
   * @param {import('./lease.js').Lease} rules.lease
   * @param {import('./connections.js').Connections} rules.connections
   * @param {() => boolean} rules.open whether requests are still taken
   */
  constructor(server, { lease, connections: all, open }) {
    this.#server = server
    this.#lease = lease
    this.#connections = all
    this.#open = open
    this.#view = this.#viewOf(server)
  }

  // The server as Node's HTTP code sees it for these connections: it never
  // closes them for being idle, and its events come by here.
  #viewOf(server) {
    const fixed = (value) => ({ value, writable: true })
    const seen = (symbol, own) => ({ get: () => (this.#refusing ? own : server[symbol]) })
    return create(server, {
      timeout: fixed(0),
      keepAliveTimeout: fixed(0),
      maxRequestsPerSocket: fixed(0),
      [connections]: fixed(list),
      [kIncomingMessage]: seen(kIncomingMessage, RefusedRequest),
      [kServerResponse]: seen(kServerResponse, http.ServerResponse),
      emit: fixed(this.#emitter),
      // A refused request is not asked to send its body first, nor told what it may
      // not expect.
      listenerCount: fixed((name) =>
        this.#refusing && (name === 'checkContinue' || name === 'checkExpectation') ? 1 : apply(listenerCount, server, [name])),
      shouldUpgradeCallback: fixed((req) => !this.#refusing && server.shouldUpgradeCallback(req)),
    })
  }

  /** Takes in a gateway's connection. */
  accept(handle) {
    const server = this.#server
    const socket = new Socket({
      handle, allowHalfOpen: true, readable: true, writable: true,
      readableHighWaterMark: server.highWaterMark, writableHighWaterMark: server.highWaterMark,
    })
    if (server.noDelay) socket.setNoDelay(true)
    const connection = this.#connections.addGateway(socket, this)
    this.#sockets.add(socket)
    if (this.#closed) apply(unref, socket, [])
    // The last listener of all, so that the function has seen the end.
    apply(on, socket, ['close', () => {
      this.#sockets.delete(socket)
      if (connection.held) this.#release(connection)
    }])
    apply(connectionListener, this.#view, [socket])
    guard(socket.parser)
  }

  /** Whether a request that shows this lease may pass. */
  admits(given) {
    return this.#open() && equalInConstantTime(this.#lease.id, given)
  }

  /** Runs the parser's callback for a request that is refused. */
  refusing(socket, call) {
    const { server } = socket
    const view = this.#view
    const { emit } = view // or a monitoring library's
    this.#refusing = true
    socket.server = view
    view.emit = this.#emitter
    try {
      return unseen(call)
    } finally {
      view.emit = emit
      socket.server = server
      this.#refusing = false
    }
  }

  /**
   * The server listens no more: idle connections do not keep the process alive,
   * as they would not exist.
   */
  closed() {
    this.#closed = true
    for (const socket of this.#sockets) {
      if (Stamp.get(socket).active === 0) apply(unref, socket, [])
    }
  }

  #emitter = (name, a, b, c) => {
    switch (name) {
      case 'request':
      case 'checkContinue':
      case 'checkExpectation':
        if (RefusedRequest.is(a)) {
          refuse(b, this.#lease.nonce)
          return true
        }
        Counted.begin(b, this.#begin(a.socket, a))
        return this.#server.emit(name, a, b)
      case 'upgrade':
      case 'connect':
        if (RefusedRequest.is(a)) {
          refuseUpgrade(b, this.#lease.nonce)
          return true
        }
        this.#begin(a.socket, a) // until it closes; b may be another stream, see server.js
        return this.#server.emit(name, a, b, c)
      case 'clientError':
        return false // of somebody who has not shown the lease yet
      default:
        return this.#server.emit(name, a, b, c)
    }
  }

  // The first request that shows the lease makes the connection the server's
  // own, as if it had just been accepted. One with requests in flight counts
  // among the server's connections, and server.close waits for it; an idle one
  // does not, or it would wait for gateways to let go of theirs.
  #begin(socket, req) {
    const server = this.#server
    const connection = Stamp.get(socket)
    if (!connection.shown) {
      connection.shown = true
      socket.server = server
      for (const listener of apply(rawListeners, server, ['connection'])) {
        if (listener !== connectionListener) apply(listener, server, [socket])
      }
    }
    if (!connection.held) {
      connection.held = true
      server._connections++
      if (this.#closed) apply(ref, socket, [])
      if (server.timeout > 0) apply(setTimeout, socket, [server.timeout])
    }
    this.#connections.begin(connection)
    connection.logged = log.begin(req.headers['x-request-id'])
    return connection
  }

  /** The response to a request that has shown the lease is over. */
  responded(connection, socket) {
    if (connection.closed) return // counted when it closed
    this.#connections.end(connection)
    if (connection.active > 0) return
    apply(setTimeout, socket, [0]) // also one that the function has set
    if (this.#closed) apply(unref, socket, [])
    this.#release(connection)
  }

  #release(connection) {
    connection.held = false
    this.#server._connections--
    // Not before the response has told its end.
    if (this.#closed) nextTick(() => this.#server._emitCloseIfDrained())
  }
}

module.exports = { Gate }
