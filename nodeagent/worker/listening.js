'use strict'

// Which of the servers that a function makes is the one that the inherited socket
// belongs to: of those that listen on TCP, the one that was first told to, but
// rather one on the pod's own port.

const { Promise, setImmediate, setTimeout } = globalThis
const { watchListens } = require('./listens.js')

/**
 * How long a server that listens already waits for one that was told to before
 * it, whose host is being looked up.
 */
const EARLIER_MS = 1_000

/** The servers of this process, watched from now on. */
class Listening {
  /** Resolves when the function's server listens, after its "listening". */
  listens
  #resolve
  #server
  /** The pod's port, known from activation on. */
  podPort = 0
  #loading
  #calls = 0
  /** Those that were told to listen and do not yet: how many were told before. */
  #begun = new Map()
  /** The one that has the inherited socket. */
  #adopted = null

  /**
   * @param {import('./server.js').FunctionServer} server the worker's
   * @param {() => boolean} loading whether a bundle is loading, and is no handler yet
   */
  constructor(server, loading) {
    this.#server = server
    this.#loading = loading
    this.listens = new Promise((resolve) => (this.#resolve = resolve))
    watchListens({
      began: (own) => this.#begun.set(own, this.#calls++),
      failed: (own) => this.#begun.delete(own),
      listens: (own, handle) => this.#listens(own, handle),
    })
  }

  /** Whether a server listens, or was told to and has not failed. */
  get begun() {
    return this.#adopted !== null || this.#begun.size > 0
  }

  /**
   * Whether the program alone says how long the process lives: the worker's own
   * server then does not keep it alive.
   */
  alone(alone) {
    if (alone) this.#server.http.unref()
    else this.#server.http.ref()
  }

  #listens(own, handle) {
    const call = this.#begun.get(own)
    this.#begun.delete(own)
    if (this.#adopted === null && !this.#loading()) return // a handler's own affair
    const before = this.#adopted
    const port = portOf(handle)
    const better = before === null || !before.own.listening || before.port !== this.podPort && (port === this.podPort || call < before.call)
    if (!better) return
    if (before === null) this.alone(true)
    this.#adopted = { own: this.#server.adopt(own, handle), call, port }
    for (const earlier of this.#begun.values()) {
      if (earlier < call && port !== this.podPort) return void setTimeout(this.#resolve, EARLIER_MS).unref()
    }
    setImmediate(this.#resolve)
  }
}

/** The port that a listening handle has. */
function portOf(handle) {
  const address = {}
  return handle.getsockname(address) === 0 ? address.port : 0
}

module.exports = { Listening }
