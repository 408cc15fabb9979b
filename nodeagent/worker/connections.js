'use strict'

// Connections are of two kinds. A gateway's comes to the container's own port
// and must show the lease with every request; it is never closed from here. A
// direct one was led to this socket by the kernel because it was made to the
// function pod's own address: it needs no lease, and is treated as any Node.js
// server treats its clients.

const { isOneOf } = require('./lease.js')

const { setInterval, clearInterval } = globalThis
const now = performance.now.bind(performance)

/** How long a direct connection may idle between requests: Node's own default. */
const KEEP_ALIVE_MS = 5_000
/** How long it may take to its first request, as Node's headersTimeout. */
const FIRST_REQUEST_MS = 60_000
const SWEEP_MS = 1_000
const DRAIN_SWEEP_MS = 100

/**
 * A class derived from this one attaches what it knows to an object in private
 * fields: nothing that function code can see, and no map to look up.
 */
class Returns {
  constructor(object) {
    return object
  }
}

/** Attaches a Connection to its socket. */
class Stamp extends Returns {
  #connection
  static put(socket, connection) {
    new Stamp(socket).#connection = connection
  }
  static get(socket) {
    return #connection in socket ? socket.#connection : undefined
  }
}

/** What the worker knows of one connection. */
class Connection {
  /** Whether it was made to the function pod's address. */
  direct = false
  /** Requests in flight on it. */
  active = 0
  /** Whether a request on it was told, or will be, that it is the last one. */
  closing = false
  closed = false
  /** Whom its socket shows as the other end, see client.js; undefined: whose it is. */
  client = undefined
  /** What the log knows of the last request that was not refused. */
  logged = undefined
  idleSince = now()
  idleLimit = FIRST_REQUEST_MS
  /** The gate it came by, on a gateway's connection to a server of the function's. */
  gate = null
  /** Whether a request on it has shown the lease, and the server knows of it. */
  shown = false
  /** Whether it counts among the connections of that server. */
  held = false
  /** Whether the function has taken it from a response that was not over. */
  taken = false

  /** @param {{responded: (connection: Connection, socket: import('node:net').Socket) => void}} counter is told when a response is over */
  constructor(counter) {
    this.counter = counter
  }
}

/** All connections of one server. */
class Connections {
  #activity
  #podAddresses = []
  #activated = false
  #sockets = new Set()
  #direct = new Map()
  #sweeper
  #draining = false
  #released = false

  /** @param {import('./activity.js').Activity} activity is told what begins and ends */
  constructor(activity) {
    this.#activity = activity
  }

  /** Takes in a connection that the server accepted. */
  add(socket) {
    const connection = this.#register(socket, this)
    if (this.#activated) this.#classify(socket, connection)
  }

  /** Takes in a gateway's connection to a server of the function's. */
  addGateway(socket, gate) {
    const connection = this.#register(socket, gate)
    connection.gate = gate
    return connection
  }

  /** From now on connections to podAddresses are direct, also those that stand. */
  activate(podAddresses) {
    this.#podAddresses = podAddresses
    this.#activated = true
    for (const socket of this.#sockets) this.#classify(socket, Stamp.get(socket))
  }

  /** The connection of a request's socket. */
  of(socket) {
    return Stamp.get(socket)
  }

  /** A request has begun on the connection. */
  begin(connection) {
    connection.active++
    if (!connection.direct) this.#activity.comes()
    this.#activity.change(1, 0)
  }

  /** A request that had begun is over, however it ended. */
  end(connection) {
    if (connection.closed) return // counted when it closed
    connection.active--
    if (connection.direct && connection.active === 0) {
      connection.idleSince = now()
      connection.idleLimit = KEEP_ALIVE_MS
    }
    this.#activity.change(-1, 0)
  }

  /** The response to a request that had begun is over. */
  responded(connection, socket) {
    this.end(connection)
    // A time limit that the function has set for its answer ends with it.
    if (socket.timeout > 0 && !connection.direct && connection.active === 0) socket.setTimeout(0)
  }

  /** Closes direct connections as soon as they are idle, now and from now on. */
  drain() {
    this.#draining = true
    this.#sweepEvery(DRAIN_SWEEP_MS)
  }

  #register(socket, counter) {
    const connection = new Connection(counter)
    Stamp.put(socket, connection)
    socket.on('close', () => {
      connection.closed = true
      this.#sockets.delete(socket)
      const direct = this.#direct.delete(socket) ? 1 : 0
      if (connection.active > 0 || direct > 0) this.#activity.change(-connection.active, -direct)
      connection.active = 0
    })
    this.#sockets.add(socket)
    if (this.#released) socket.unref()
    return connection
  }

  /** From now on no connection keeps the process alive; they stay open. */
  release() {
    this.#released = true
    for (const socket of this.#sockets) socket.unref()
  }

  #classify(socket, connection) {
    const local = socket.localAddress
    if (local === undefined || !isOneOf(this.#podAddresses, local)) return
    connection.direct = true
    this.#direct.set(socket, connection)
    this.#activity.change(0, 1)
    if (this.#sweeper === undefined) this.#sweepEvery(SWEEP_MS)
  }

  #sweepEvery(ms) {
    if (this.#sweeper !== undefined) clearInterval(this.#sweeper)
    this.#sweeper = setInterval(() => this.#sweep(ms), ms)
    this.#sweeper.unref()
  }

  // While draining, a connection gets one interval to show a request that was
  // already on its way.
  #sweep(interval) {
    const time = now()
    for (const [socket, connection] of this.#direct) {
      const limit = this.#draining ? interval : connection.idleLimit
      if (connection.active === 0 && time - connection.idleSince >= limit) socket.destroySoon()
    }
    if (this.#direct.size === 0 && !this.#draining) {
      clearInterval(this.#sweeper)
      this.#sweeper = undefined
    }
  }
}

module.exports = { Connections, Returns, Stamp, KEEP_ALIVE_MS }
