'use strict'

const { Readable } = require('node:stream')
const { parse } = require('csv-parse')
const { parse: parseSync } = require('csv-parse/sync')
const { stringify } = require('csv-stringify/sync')

module.exports = async (req, res) => {
  const rows = []
  const stream = Readable.from(['name;cups\n"Earl; ', 'Grey";2\nassam;x\n']).pipe(parse({ delimiter: ';', columns: true, cast: (value, { column, header }) => !header && column === 'cups' ? Number(value) : value }))
  for await (const row of stream) rows.push(row)
  let wrong
  try { parseSync('a,b\n1\n') } catch (error) { wrong = error.code }
  res.json({ ok: true, rows, wrong, written: stringify([{ a: 'x"y', b: 1 }], { header: true }) })
}
