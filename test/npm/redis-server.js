'use strict'

// As much of a Redis server as a client's first steps need (RESP2, which RESP3 includes).
// https://redis.io/docs/latest/develop/reference/protocol-spec/

const { createServer } = require('node:net')

const bulk = (value) => value === undefined ? '$-1\r\n' : `$${Buffer.byteLength(value)}\r\n${value}\r\n`

/** @returns {import('node:net').Server} not listening yet */
function redisServer() {
  const data = new Map()
  const run = ([name, ...args]) => {
    switch (name.toUpperCase()) {
      case 'PING': return args.length ? bulk(args[0]) : '+PONG\r\n'
      case 'SET': data.set(args[0], args[1]); return '+OK\r\n'
      case 'GET': return bulk(data.get(args[0]))
      case 'INCRBY': data.set(args[0], String(Number(data.get(args[0]) ?? 0) + Number(args[1]))); return `:${data.get(args[0])}\r\n`
      case 'MGET': return `*${args.length}\r\n${args.map((key) => bulk(data.get(key))).join('')}`
      case 'INFO': return bulk('redis_version:7.0.0\r\nloading:0\r\n')
      case 'CLIENT': case 'SELECT': case 'QUIT': return '+OK\r\n'
      case 'HELLO': return '%1\r\n$5\r\nproto\r\n:3\r\n'
      default: return `-ERR unknown command '${name}'\r\n`
    }
  }
  return createServer((socket) => {
    let buffer = ''
    let queue = null
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      buffer += chunk
      for (let command; (command = take()) !== null;) {
        const name = command[0].toUpperCase()
        if (name === 'MULTI') {
          queue = []
          socket.write('+OK\r\n')
        } else if (name === 'EXEC') {
          socket.write(`*${queue.length}\r\n${queue.map(run).join('')}`)
          queue = null
        } else if (queue !== null) {
          queue.push(command)
          socket.write('+QUEUED\r\n')
        } else {
          socket.write(run(command))
        }
      }
    })
    // take returns the next whole command of ASCII words, or null.
    function take() {
      const lines = buffer.split('\r\n')
      const count = Number(lines[0]?.slice(1))
      if (!(lines.length > 1 + 2 * count)) return null
      buffer = lines.slice(1 + 2 * count).join('\r\n')
      return Array.from({ length: count }, (_, i) => lines[2 + 2 * i])
    }
  })
}

module.exports = { redisServer }
