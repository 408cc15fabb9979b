'use strict'

// The HTTP server of a container, from warm to drained.

const http = require('node:http')

const { Activity } = require('./activity.js')
const { answerError, refuse } = require('./answers.js')
const { Connections, KEEP_ALIVE_MS } = require('./connections.js')
const { equalInConstantTime } = require('./lease.js')
const { FunctionRequest, FunctionResponse } = require('./message.js')

const { clearTimeout, Promise, setTimeout } = globalThis

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
  #closed // the same listener for all responses

  /** @param {(activity: {inFlight: number, direct: number}) => void} report */
  constructor(report) {
    this.#activity = new Activity(report)
    this.#connections = new Connections(this.#activity)
    const connections = this.#connections
    this.#closed = function () {
      connections.end(FunctionResponse.connection(this))
    }
    this.http = http.createServer({ IncomingMessage: FunctionRequest, ServerResponse: FunctionResponse })
    // A gateway's connection is never closed from this side, however long it
    // idles or its request takes: a request could be on its way, and it would
    // not be known whether it ran. Direct ones are swept by Connections.
    this.http.keepAliveTimeout = 0
    this.http.headersTimeout = 0
    this.http.requestTimeout = 0
    this.http.on('connection', (socket) => this.#connections.add(socket))
    this.http.on('request', (req, res) => this.#request(req, res))
  }

  /** Knows its lease from now on, and refuses all until `serve`. */
  activate(lease) {
    this.#lease = lease
    this.#connections.activate(lease.podAddress)
  }

  /** Answers with the handler from now on. */
  serve(handler) {
    this.#handler = handler
  }

  /**
   * Takes no more requests from gateways, and resolves when those in flight are
   * done and direct connections are closed, or after the grace period.
   */
  async drain(graceMs) {
    this.#draining = true
    this.#connections.drain()
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
  }

  #hold = (promise) => {
    this.#activity.change(1, 0)
    promise.then(() => this.#activity.change(-1, 0))
  }

  #request(req, res) {
    const connections = this.#connections
    const connection = connections.of(req.socket)
    const lease = this.#lease
    if (lease === null) {
      return answerError(req, res, 503, 'NotActivated', 'this container serves no function yet')
    }
    if (connection.direct) {
      res._keepAliveTimeout = KEEP_ALIVE_MS // only tells the client, in Keep-Alive
      if (this.#draining) res.shouldKeepAlive = false
    } else if (this.#draining || this.#handler === null || !equalInConstantTime(lease.id, FunctionRequest.lease(req))) {
      return refuse(res, lease.nonce)
    }
    if (this.#handler === null) {
      return answerError(req, res, 503, 'NotReady', 'the function is still loading')
    }
    connections.begin(connection)
    FunctionResponse.countOn(res, connection)
    res.on('close', this.#closed)
    FunctionRequest.prepare(req, res, !connection.direct)
    if (req.upgrade || wantsWebSocket(req)) {
      return answerError(req, res, 501, 'UpgradeNotSupported', 'functions cannot take over connections yet (WebSocket)')
    }
    this.#handler(req, res, this.#hold)
  }
}

// Other upgrades (h2c) are offers that a server may ignore.
const wantsWebSocket = (req) => req.headers.upgrade !== undefined && req.headers.upgrade.toLowerCase() === 'websocket'

module.exports = { FunctionServer }
