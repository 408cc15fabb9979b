'use strict'

// Which servers of this process listen on TCP, as Node itself tells it (Node.js
// docs, diagnostics_channel, "net.server.listen"). Nothing of the function's is
// replaced or wrapped for it.

const diagnostics = require('node:diagnostics_channel')

const CHANNEL = 'tracing:net.server.listen'

/**
 * Watches every net.Server of this thread, http.Server and all others that are
 * made of it included, from now on.
 *
 * @param {object} events
 * @param {(server: import('node:net').Server) => void} events.began `listen` was
 *   called
 * @param {(server: import('node:net').Server, handle: object) => void} events.listens
 *   it listens on a TCP port by this handle of its own; "listening" has not been
 *   emitted yet, and the context is that of the call of `listen` (or of its
 *   name look-up)
 * @param {(server: import('node:net').Server) => void} events.failed it does not;
 *   its "error" is emitted next
 */
function watchListens({ began, listens, failed }) {
  diagnostics.subscribe(`${CHANNEL}:asyncStart`, ({ server }) => began(server))
  diagnostics.subscribe(`${CHANNEL}:error`, ({ server }) => failed(server))
  diagnostics.subscribe(`${CHANNEL}:asyncEnd`, ({ server }) => {
    const handle = server._handle
    // A unix socket is nothing that requests can come to from outside.
    if (typeof handle?.getsockname !== 'function') return failed(server)
    listens(server, handle)
  })
}

module.exports = { watchListens }
