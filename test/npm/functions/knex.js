'use strict'

const knex = require('knex')

module.exports = async (req, res) => {
  const db = knex({ client: 'better-sqlite3', connection: { filename: '/tmp/knex.db' }, useNullAsDefault: true })
  await db.schema.createTable('teas', (table) => {
    table.increments('id')
    table.string('name').unique()
  })
  await db.transaction(async (trx) => trx('teas').insert([{ name: 'assam' }, { name: 'oolong' }]))
  const rows = await db('teas').select('name').whereIn('id', [2])
  await db.destroy()
  const sql = knex({ client: 'pg' })('teas').where({ name: 'assam' }).orWhere('id', '>', 5).limit(2).toSQL().toNative()
  res.json({ ok: true, rows, sql: sql.sql, bindings: sql.bindings })
}
