'use strict'

// What activation told this container about the one lease that it serves.

const net = require('node:net')

const { apply } = Reflect
const { charCodeAt } = String.prototype

/**
 * The lease of this container, unchanged for its whole life.
 *
 * @typedef {object} Lease
 * @property {string} id what Sanfran-Lease must say on a gateway's connection
 * @property {string} nonce what Sanfran-Refused says when a request is refused
 * @property {string[]} podAddresses canonical addresses of the function pod, at most one of each family
 */

/** Makes the lease that an activate message describes. */
function leaseOf({ lease, nonce, podAddress }) {
  if (typeof lease !== 'string' || lease === '') throw new TypeError('activate: "lease" must be a non-empty string')
  if (typeof nonce !== 'string' || nonce === '') throw new TypeError('activate: "nonce" must be a non-empty string')
  return { id: lease, nonce, podAddresses: podAddress ? podAddress.split(',').map(canonicalAddress) : [] }
}

/**
 * The one spelling of an IP address: an IPv4 address that a dual-stack socket
 * shows as ::ffff:a.b.c.d is that IPv4 address. Text that is no address gives ''.
 */
function canonicalAddress(address) {
  if (net.isIPv4(address)) return address
  if (!net.isIPv6(address)) return ''
  const canonical = new net.SocketAddress({ address, family: 'ipv6' }).address
  const mapped = canonical.startsWith('::ffff:') ? canonical.slice('::ffff:'.length) : ''
  return net.isIPv4(mapped) ? mapped : canonical
}

/** Whether an address, as a socket shows it, is one of the canonical ones. */
function isOneOf(addresses, address) {
  if (addresses.length === 0) return false
  const canonical = canonicalAddress(address)
  for (let i = 0; i < addresses.length; i++) if (addresses[i] === canonical) return true
  return false
}

/**
 * Compares two strings in a time that depends on their lengths alone, so that
 * nobody can guess a lease character by character.
 */
function equalInConstantTime(secret, given) {
  if (typeof given !== 'string' || given.length !== secret.length) return false
  let difference = 0
  for (let i = 0; i < secret.length; i++) difference |= apply(charCodeAt, secret, [i]) ^ apply(charCodeAt, given, [i])
  return difference === 0
}

module.exports = { leaseOf, canonicalAddress, isOneOf, equalInConstantTime }
