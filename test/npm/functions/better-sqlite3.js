'use strict'

const Database = require('better-sqlite3')
const fs = require('node:fs')

module.exports = (req, res) => {
  const file = '/tmp/shop.db'
  const db = new Database(file)
  db.pragma('journal_mode = WAL')
  db.exec('CREATE TABLE teas (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, cups INTEGER)')
  const insert = db.prepare('INSERT INTO teas (name, cups) VALUES (@name, @cups)')
  db.transaction((teas) => teas.forEach((tea) => insert.run(tea)))([{ name: 'assam', cups: 2 }, { name: 'oolong', cups: 5 }])
  let duplicate
  try { insert.run({ name: 'assam', cups: 1 }) } catch (error) { duplicate = error.code }
  db.function('shout', (text) => text.toUpperCase())
  const rows = db.prepare('SELECT shout(name) AS name, sum(cups) OVER (ORDER BY id) AS total FROM teas').all()
  db.close()
  const again = new Database(file, { readonly: true }).prepare('SELECT count(*) FROM teas').pluck().get()
  res.json({ ok: true, rows, duplicate, again, header: fs.readFileSync(file).toString('latin1', 0, 15) })
}
