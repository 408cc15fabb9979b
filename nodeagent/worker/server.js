'use strict'

// The HTTP server of a container, from warm to drained.

const http = require('node:http')

const { Activity } = require('./activity.js')
const { answerError, refuse } = require('./answers.js')
const { showClient } = require('./client.js')
const { Connections, KEEP_ALIVE_MS } = require('./connections.js')
const { Counted } = require('./counted.js')
const { equalInConstantTime } = require('./lease.js')
const { FunctionRequest, FunctionResponse } = require('./message.js')
const { OwnServer } = require('./own-server.js')
const { follow } = require('./parsers.js')
const { isHeard, unseen } = require('./unseen.js')
const { refuseUpgrade, takeOver } = require('./upgrade.js')

const { clearInterval, clearTimeout, Promise, setInterval, setTimeout } = globalThis
const { apply, defineProperty, deleteProperty, getOwnPropertyDescriptor } = Reflect
const { hasOwn } = Object
const { emit, listenerCount } = http.Server.prototype

/** How often a program's idle connections are closed while it drains. */
const CLOSE_IDLE_MS = 100

// A function may listen on this server itself (libraries do that are given
// req.socket.server). So the lease is checked, and the request counted, where its
// event is emitted: before any listener.
class Server extends http.Server {
  #passes

  /** @param {(name: string, req: object, b: object) => boolean} passes b: the response or socket; false: it was answered */
  constructor(options, passes) {
    super(options)
    this.#passes = passes
  }

  emit(name, a, b, c) {
    switch (name) {
      case 'request':
      case 'checkContinue':
      case 'checkExpectation':
      case 'upgrade':
      case 'connect':
        // By whatever `emit` a monitoring library has put on the prototype.
        return this.#passes(name, a, b) ? super.emit(name, a, b, c) : true
    }
    return apply(emit, this, [name, a, b, c])
  }
}

/** Whether what a request on this connection says of its client is the gateway's word. */
const isProxied = (connection) => !connection.direct && connection.client === undefined

/** Serves one lease; before `serve` it answers nothing. */
class FunctionServer {
  /** The http.Server, to be made to listen. */
  http
  #lease = null
  #handler = null
  #draining = false
  #activity
  #connections
  #idle = null
  /** The server of the function's that connections are given to, if there is one. */
  #own = null

  /** @param {(activity: {inFlight: number, direct: number, came: number, delayMs?: number}) => void} report */
  constructor(report) {
    this.#activity = new Activity(report)
    this.#connections = new Connections(this.#activity)
    this.http = new Server({
      IncomingMessage: FunctionRequest,
      ServerResponse: FunctionResponse,
      shouldUpgradeCallback: (req) => this.#takesUpgrade(req),
    }, (name, req, b) => (name === 'upgrade' || name === 'connect' ? this.#passesUpgrade(req, b) : this.#passes(req, b)))
    // A gateway's connection is never closed from this side, however long it
    // idles or its request takes: a request could be on its way, and it would
    // not be known whether it ran. Direct ones are swept by Connections.
    this.http.keepAliveTimeout = 0
    this.http.headersTimeout = 0
    this.http.requestTimeout = 0
    this.http.on('connection', (socket) => {
      this.#connections.add(socket)
      this.#watchIncoming(socket.parser)
      follow(socket.parser)
    })
    this.http.on('request', (req, res) => this.#handler(req, res, this.#hold))
    // As Node does without this listener; but who is refused is not asked to
    // send a body first.
    this.http.on('checkContinue', (req, res) => {
      res.writeContinue()
      this.#handler(req, res, this.#hold)
    })
    // Without a listener Node answers by itself, before the lease is looked at.
    this.http.on('checkExpectation', (req, res) => {
      if (apply(listenerCount, this.http, ['checkExpectation']) === 1) res.writeHead(417).end()
    })
    this.http.on('upgrade', (req, socket, head) => {
      const upgrade = this.#handler.upgradeOf?.(req)
      if (upgrade !== undefined) takeOver(upgrade, req, socket, head)
    })
  }

  /** Knows its lease from now on, and refuses all until `serve`. */
  activate(lease) {
    this.#lease = lease
    this.#connections.activate(lease.podAddresses)
  }

  /** Answers with the handler from now on. */
  serve(handler) {
    this.#handler = handler
  }

  /**
   * Gives the connections of the inherited socket to a server of the function's
   * from now on.
   *
   * @param {import('node:net').Server} server
   * @param {object} handle the one it listens by
   * @returns {OwnServer}
   */
  adopt(server, handle) {
    const first = this.#own === null
    this.#own = new OwnServer(server, handle, {
      lease: this.#lease, connections: this.#connections, activity: this.#activity, draining: () => this.#draining,
    })
    if (first) {
      const door = this.http._handle
      const { onconnection } = door
      door.onconnection = (error, client) => {
        if (!this.#own.accept(error, client)) apply(onconnection, door, [error, client])
      }
    }
    return this.#own
  }

  /** Answers what comes to the worker itself while the program serves. */
  #besideProgram = (req, res) => {
    res.shouldKeepAlive = false
    if (this.#own.listening && this.#own.gate === null) {
      answerError(req, res, 501, 'NotHttpServer', 'the program does not listen with http.createServer, so that only its address and Services reach it')
    } else {
      answerError(req, res, 503, 'NotListening', 'the program did not listen yet when this connection was made')
    }
  }

  /** Has the program's own server answer from now on. */
  serveProgram() {
    this.#handler = this.#besideProgram
  }

  /**
   * Takes no more requests from gateways, and resolves when those in flight are
   * done and direct connections are closed, or after the grace period.
   */
  async drain(graceMs) {
    this.#draining = true
    this.#connections.drain()
    const closing = this.#own === null ? undefined : setInterval(() => this.#own.closeIdle(), CLOSE_IDLE_MS)
    closing?.unref()
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, graceMs)
      timer.unref()
      this.#idle = () => {
        const { inFlight, direct } = this.#activity
        if (inFlight > 0 || direct > 0) return
        clearTimeout(timer)
        resolve()
      }
      this.#activity.changed = this.#idle
      this.#idle()
    })
    this.#activity.changed = null
    clearInterval(closing)
  }

  /** Tells the agent now how busy this container is. */
  report() {
    this.#activity.send()
  }

  /**
   * From now on refusing what still comes does not keep the process alive. The
   * connections of a server of the function's are its own affair.
   */
  release() {
    this.http.unref()
    if (this.#own === null) this.#connections.release()
  }

  #hold = (promise) => {
    this.#activity.change(1, 0)
    promise.then(() => this.#activity.change(-1, 0))
  }

  // Whether a request may reach the function.
  #admits(req) {
    const lease = this.#lease
    if (lease === null || this.#handler === null) return false
    return this.#connections.of(req.socket).direct || !this.#draining && equalInConstantTime(lease.id, FunctionRequest.lease(req))
  }

  // Whether an upgrade that a request offers is taken: as under plain Node.js, by
  // whoever listens for "upgrade" on the server; or by the handler's own way.
  #takesUpgrade(req) {
    if (!this.#admits(req)) return false
    return this.#handler.upgradeOf?.(req) !== undefined || apply(listenerCount, this.http, ['upgrade']) > 1
  }

  // Node tells of a request before its event, and monitoring libraries put an
  // `emit` of their own on the server. They are not to hear of one that is refused,
  // and to see the client of any other.
  #watchIncoming(parser) {
    const { http } = this
    const { onIncoming } = parser
    parser.onIncoming = (req, keepAlive) => {
      const connection = this.#connections.of(req.socket)
      const client = connection.direct ? undefined : FunctionRequest.client(req)
      if (client === connection.client && !isHeard() && !hasOwn(http, 'emit')) return onIncoming(req, keepAlive)
      if (this.#admits(req)) {
        showClient(req.socket, connection, client)
        return onIncoming(req, keepAlive)
      }
      const theirs = getOwnPropertyDescriptor(http, 'emit')
      if (theirs !== undefined) deleteProperty(http, 'emit')
      try {
        return unseen(() => onIncoming(req, keepAlive))
      } finally {
        if (theirs !== undefined) defineProperty(http, 'emit', theirs)
      }
    }
  }

  // Whether an upgrade or CONNECT goes on to those that listen for it.
  #passesUpgrade(req, socket) {
    if (!this.#admits(req)) {
      refuseUpgrade(socket, this.#lease?.nonce)
      return false
    }
    // Not always the socket: Node.js 26 gives a stream until the request's body is read.
    const connection = this.#connections.of(req.socket)
    this.#connections.begin(connection) // until the socket closes
    connection.logged = FunctionRequest.prepare(req, undefined, isProxied(connection))
    return true
  }

  // Whether a request goes on to those that listen for it; if not, it is answered.
  #passes(req, res) {
    if (Counted.has(res)) return true // a listener passes it on to others
    const connections = this.#connections
    const connection = connections.of(req.socket)
    const lease = this.#lease
    if (lease === null) {
      answerError(req, res, 503, 'NotActivated', 'this container serves no function yet')
      return false
    }
    if (connection.direct) {
      // What a client sends after a request whose answer will say "close" must
      // not be processed: its answer could not be sent (RFC 9112, section 9.6).
      if (connection.closing) return false
      res._keepAliveTimeout = KEEP_ALIVE_MS // only tells the client, in Keep-Alive
      if (this.#draining) {
        res.shouldKeepAlive = false
        connection.closing = true
      }
    } else if (this.#draining || this.#handler === null || this.#own?.listening === false || !equalInConstantTime(lease.id, FunctionRequest.lease(req))) {
      refuse(res, lease.nonce)
      return false
    }
    if (this.#handler === null) {
      answerError(req, res, 503, 'NotReady', 'the function is still loading')
      return false
    }
    connections.begin(connection)
    Counted.begin(res, connection)
    connection.logged = FunctionRequest.prepare(req, res, isProxied(connection))
    return true
  }
}

module.exports = { FunctionServer }
