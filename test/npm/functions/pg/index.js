'use strict'

const { Client, Pool, escapeIdentifier } = require('pg')
const { listen } = require('./loopback.js')
const { postgresServer } = require('./postgres-server.js')

module.exports = async (req, res) => {
  const heard = []
  const server = postgresServer(heard)
  const port = await listen(server)
  const pool = new Pool({ host: '127.0.0.1', port, user: 'vik', password: 'pw', database: 'shop', max: 2 })
  const { rows, rowCount, fields } = await pool.query('SELECT id, name, at FROM teas WHERE id > $1', [0])
  await pool.end()
  const wrong = await new Client({ host: '127.0.0.1', port, user: 'vik', password: 'no' }).connect().catch((error) => error.code)
  server.close()
  const refused = await new Client({ host: '127.0.0.1', port: 1 }).connect().catch((error) => error.code)
  res.json({ ok: true, rows, rowCount, fields: fields.map(({ name }) => name), heard, wrong, refused, escaped: escapeIdentifier('a"b') })
}
