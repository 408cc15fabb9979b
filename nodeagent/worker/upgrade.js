'use strict'

// Connections that a function takes over from HTTP, WebSocket above all.

const net = require('node:net')

const { logError } = require('./answers.js')

const { apply } = Reflect
const { destroy, destroySoon, write } = net.Socket.prototype

/** Refuses what wanted to take a connection over; no function code saw it. */
function refuseUpgrade(socket, nonce) {
  const refused = nonce === undefined ? '' : `Sanfran-Refused: ${nonce}\r\n`
  apply(write, socket, [`HTTP/1.1 421 Misdirected Request\r\n${refused}Content-Length: 0\r\nConnection: close\r\n\r\n`])
  apply(destroySoon, socket, [])
}

/**
 * Gives a connection to a function. If that throws or rejects, the error is
 * logged, and the client told 500 unless something was written already.
 *
 * @param {(req: object, socket: net.Socket, head: Buffer) => unknown} upgrade
 */
function takeOver(upgrade, req, socket, head) {
  const written = socket.bytesWritten
  const failed = (error) => {
    logError(error)
    if (socket.destroyed) return
    if (socket.bytesWritten !== written) return apply(destroy, socket, [])
    apply(write, socket, ['HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'])
    apply(destroySoon, socket, [])
  }
  let result
  try {
    result = upgrade(req, socket, head)
  } catch (error) {
    failed(error)
    return
  }
  if (result !== null && typeof result === 'object' && typeof result.then === 'function') result.then(undefined, failed)
}

module.exports = { refuseUpgrade, takeOver }
