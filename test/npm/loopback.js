'use strict'

const { once } = require('node:events')

/**
 * Makes a server listen on a free port of 127.0.0.1.
 *
 * @param {{listen: Function, once: Function, address: Function}} server as of node:net
 * @returns {Promise<number>} the port
 */
async function listen(server) {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server.address().port
}

module.exports = { listen }
