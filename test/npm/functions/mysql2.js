'use strict'

// mysql2 brings a server's side of the protocol too.
const mysql = require('mysql2')
const { createPool } = require('mysql2/promise')
const { once } = require('node:events')

const columns = [
  { catalog: 'def', schema: 'shop', table: 'teas', orgTable: 'teas', name: 'id', orgName: 'id', characterSet: 33, columnLength: 11, columnType: 3, flags: 1, decimals: 0 },
  { catalog: 'def', schema: 'shop', table: 'teas', orgTable: 'teas', name: 'name', orgName: 'name', characterSet: 33, columnLength: 255, columnType: 253, flags: 1, decimals: 0 },
]

module.exports = async (req, res) => {
  const heard = []
  const server = mysql.createServer()
  server.on('connection', (connection) => {
    connection.serverHandshake({
      protocolVersion: 10, serverVersion: '8.0.0', connectionId: 1, statusFlags: 2, characterSet: 33, capabilityFlags: 0xffffff ^ 0x800,
      authCallback: ({ user, database }, done) => {
        heard.push(`${user}@${database}`)
        done(null, user === 'vik' ? undefined : { message: 'Access denied', code: 1045 })
        connection._resetSequenceId() // each command counts its packets anew
      },
    })
    connection.on('query', (sql) => {
      heard.push(sql)
      if (sql.startsWith('SELECT')) connection.writeTextResult([[1, 'assam'], [2, 'oolong']].map(([id, name]) => ({ id, name })), columns)
      else connection.writeOk({ affectedRows: 3, insertId: 7 })
      connection._resetSequenceId()
    })
    connection.on('ping', () => {
      connection.writeOk()
      connection._resetSequenceId()
    })
    connection.on('error', () => {})
  })
  server.listen(0, '127.0.0.1')
  await once(server._server, 'listening')
  const pool = createPool({ host: '127.0.0.1', port: server._server.address().port, user: 'vik', database: 'shop', connectionLimit: 2 })
  const [rows] = await pool.query('SELECT * FROM teas WHERE name <> ? AND id IN (?)', ["O'Neil", [1, 2]])
  const [result] = await pool.query('DELETE FROM teas')
  const connection = await pool.getConnection()
  await connection.ping()
  connection.release()
  await pool.end()
  await new Promise((resolve) => server.close(resolve))
  const refused = await createPool({ host: '127.0.0.1', port: 1 }).query('SELECT 1').catch((error) => error.code)
  res.json({ ok: true, rows, affected: result.affectedRows, insertId: result.insertId, heard, refused })
}
