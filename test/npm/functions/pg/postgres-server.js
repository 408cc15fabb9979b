'use strict'

// As much of a PostgreSQL server as one query needs: MD5 authentication and
// the extended query protocol.
// https://www.postgresql.org/docs/current/protocol-message-formats.html

const { createHash } = require('node:crypto')
const { createServer } = require('node:net')

const int16 = (n) => { const b = Buffer.alloc(2); b.writeInt16BE(n); return b }
const int32 = (n) => { const b = Buffer.alloc(4); b.writeInt32BE(n); return b }
const text = (s) => Buffer.from(`${s}\0`)
const message = (type, ...parts) => {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from(type), int32(body.length + 4), body])
}
const md5 = (...parts) => {
  const hash = createHash('md5')
  for (const part of parts) hash.update(part)
  return hash.digest('hex')
}

const SALT = Buffer.from([1, 2, 3, 4])
const COLUMNS = [['id', 23, 4], ['name', 25, -1], ['at', 1184, 8]] // name, type's oid, size
const ROWS = [['1', 'assam', '2026-01-02 03:04:05+00'], ['2', null, '2026-01-02 05:04:05+02']]

const ready = message('Z', Buffer.from('I'))
const described = message('T', int16(COLUMNS.length), ...COLUMNS.map(([name, oid, size]) =>
  Buffer.concat([text(name), int32(0), int16(0), int32(oid), int16(size), int32(-1), int16(0)])))
const rows = ROWS.map((row) => message('D', int16(row.length), ...row.map((value) =>
  value === null ? int32(-1) : Buffer.concat([int32(value.length), Buffer.from(value)]))))

/**
 * @param {string[]} heard gets what clients ask
 * @returns {import('node:net').Server} not listening yet; the user is vik, with password pw
 */
function postgresServer(heard) {
  return createServer((socket) => {
    let buffer = Buffer.alloc(0)
    let started = false
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      buffer = Buffer.concat([buffer, chunk])
      for (;;) {
        const head = started ? 1 : 0
        if (buffer.length < head + 4) return
        const length = head + buffer.readInt32BE(head)
        if (buffer.length < length) return
        const type = started ? String.fromCharCode(buffer[0]) : 'startup'
        receive(type, buffer.subarray(head + 4, length))
        buffer = buffer.subarray(length)
      }
    })
    function receive(type, body) {
      switch (type) {
        case 'startup':
          started = true
          heard.push(body.subarray(4).toString().split('\0').slice(0, 4).join(' '))
          return socket.write(message('R', int32(5), SALT))
        case 'p': {
          const right = `md5${md5(md5('pw', 'vik'), SALT)}`
          if (body.toString() !== `${right}\0`) {
            return socket.end(message('E', text('SFATAL'), text('C28P01'), text('Mpassword authentication failed'), Buffer.from([0])))
          }
          return socket.write(Buffer.concat([message('R', int32(0)), message('S', text('server_version'), text('17.0')), message('K', int32(1), int32(2)), ready]))
        }
        case 'P': heard.push(body.toString().split('\0')[1]); return socket.write(message('1'))
        case 'B': return socket.write(message('2'))
        case 'D': return socket.write(described)
        case 'E': return socket.write(Buffer.concat([...rows, message('C', text(`SELECT ${rows.length}`))]))
        case 'S': return socket.write(ready)
        case 'X': return socket.end()
      }
    }
  })
}

module.exports = { postgresServer }
