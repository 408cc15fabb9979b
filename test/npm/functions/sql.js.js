'use strict'

// SQLite as WebAssembly.
const initialize = require('sql.js')

module.exports = async (req, res) => {
  const SQL = await initialize()
  const db = new SQL.Database()
  db.run('CREATE TABLE teas (name TEXT)')
  db.run('INSERT INTO teas VALUES (?), (?)', ['assam', 'oolong'])
  const [{ columns, values }] = db.exec('SELECT name, length(name) AS letters FROM teas ORDER BY name')
  const file = Buffer.from(db.export()).toString('latin1', 0, 15)
  db.close()
  res.json({ ok: true, columns, values, file })
}
