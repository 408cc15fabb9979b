'use strict'

// The client that an agent forwards for. A connection to a function pod's address
// ends at an agent while the pod is parked, or active on another node; what comes
// here then is a connection of the agent's, which carries requests of many clients,
// one after the other. Beside the lease the agent says whose each one is, and the
// function sees that client where Node.js shows who is connected, as if there were
// no agent.

const net = require('node:net')

const { isIPv4, isIPv6 } = net
const { apply, set } = Reflect
const { lastIndexOf, slice } = String.prototype

/**
 * Has a socket show the client of the request at hand as its other end; undefined:
 * whoever is connected.
 *
 * @param {net.Socket} socket
 * @param {import('./connections.js').Connection} connection the socket's
 * @param {string | undefined} client what Sanfran-Client says, of a request that
 *   has shown the lease
 */
function showClient(socket, connection, client) {
  if (client === connection.client) return
  connection.client = client
  // Where Node.js keeps what it has asked the kernel once. A function that has put
  // something there for good sees that.
  set(socket, '_peername', client === undefined ? undefined : peerOf(client, socket.localFamily === 'IPv6'))
}

/**
 * The other end of a socket, as Node.js has it.
 *
 * @param {string} text "192.0.2.1:1234" or "[2001:db8::1]:1234"
 * @param {boolean} mapped whether the socket is of both families, and shows an IPv4
 *   address in its mapped form
 * @returns {{address: string, family: string, port: number} | undefined} undefined if
 *   the text is none
 */
function peerOf(text, mapped) {
  const colon = apply(lastIndexOf, text, [':'])
  const port = Number(apply(slice, text, [colon + 1]))
  if (!(port > 0 && port < 1 << 16)) return undefined
  if (text[0] === '[') {
    const address = apply(slice, text, [1, colon - 1])
    return isIPv6(address) ? { address, family: 'IPv6', port } : undefined
  }
  const address = apply(slice, text, [0, colon])
  if (!isIPv4(address)) return undefined
  return mapped ? { address: `::ffff:${address}`, family: 'IPv6', port } : { address, family: 'IPv4', port }
}

module.exports = { showClient }
