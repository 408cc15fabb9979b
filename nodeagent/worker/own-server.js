'use strict'

// The server of a program that listens by itself: connections that come to the
// inherited socket are given to it as if it had accepted them.

const { AsyncLocalStorage } = require('node:async_hooks')
const http = require('node:http')

const { isOneOf } = require('./lease.js')
const { Gate } = require('./gate.js')

const { apply } = Reflect
const isHTTP = (server) => apply(Object.prototype.isPrototypeOf, http.Server.prototype, [server])
const { closeIdleConnections } = http.Server.prototype

/** One listening server of the function's. */
class OwnServer {
  /** Whether it still listens. */
  listening = true
  /** The way of gateways into it; null if it is no plain HTTP server. */
  gate = null
  #server
  #handle
  #podAddresses
  #activity
  #inContext // of the call of listen

  /**
   * @param {import('node:net').Server} server
   * @param {object} handle the one it listens by
   * @param {object} worker
   * @param {import('./lease.js').Lease} worker.lease
   * @param {import('./connections.js').Connections} worker.connections
   * @param {import('./activity.js').Activity} worker.activity
   * @param {() => boolean} worker.draining
   */
  constructor(server, handle, { lease, connections, activity, draining }) {
    this.#server = server
    this.#handle = handle
    this.#podAddresses = lease.podAddresses
    this.#activity = activity
    this.#inContext = AsyncLocalStorage.snapshot()
    if (isHTTP(server)) {
      this.gate = new Gate(server, { lease, connections, open: () => this.listening && !draining() })
    }
    const { close } = handle
    handle.close = (...args) => {
      this.listening = false
      this.gate?.closed()
      return apply(close, handle, args)
    }
  }

  /**
   * Takes a connection that was accepted on the inherited socket.
   *
   * @param {number} error of accepting, 0 for none
   * @param {object} client the connection's handle
   * @returns {boolean} whether it has taken it; a gateway's may be left to the
   *   worker, which knows what to tell it
   */
  accept(error, client) {
    if (error) {
      if (!this.listening) return false
      this.#inContext(this.#handle.onconnection.bind(this.#handle), error)
      return true
    }
    if (!this.#isDirect(client)) {
      if (!this.listening || this.gate === null) return false
      this.#inContext(() => this.gate.accept(client))
      return true
    }
    if (!this.listening) {
      client.close() // who listens no more refuses connections
      return true
    }
    this.#activity.change(0, 1)
    const { close } = client
    client.close = (...args) => {
      client.close = close
      this.#activity.change(0, -1)
      return apply(close, client, args)
    }
    // The code that Node runs for a connection on the server's own socket. It is
    // looked up each time: node:cluster puts its own there.
    this.#inContext(() => this.#handle.onconnection(0, client))
    return true
  }

  /** Closes direct connections without a request, as server.close does. */
  closeIdle() {
    if (this.gate !== null) apply(closeIdleConnections, this.#server, [])
  }

  #isDirect(client) {
    const local = {}
    return client.getsockname(local) === 0 && isOneOf(this.#podAddresses, local.address)
  }
}

module.exports = { OwnServer }
