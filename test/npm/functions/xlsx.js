'use strict'

const XLSX = require('xlsx')

module.exports = (req, res) => {
  const book = XLSX.utils.book_new()
  XLSX.utils.book_append_sheet(book, XLSX.utils.aoa_to_sheet([['name', 'cups'], ['assam', 2]]), 'Teas')
  const back = XLSX.read(XLSX.write(book, { type: 'buffer', bookType: 'xlsx' }))
  res.json({ ok: true, sheets: back.SheetNames, rows: XLSX.utils.sheet_to_json(back.Sheets.Teas), csv: XLSX.utils.sheet_to_csv(back.Sheets.Teas) })
}
