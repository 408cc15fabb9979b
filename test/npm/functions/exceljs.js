'use strict'

const ExcelJS = require('exceljs')

module.exports = async (req, res) => {
  const book = new ExcelJS.Workbook()
  const sheet = book.addWorksheet('Teas')
  sheet.columns = [{ header: 'Name', key: 'name' }, { header: 'Cups', key: 'cups' }]
  sheet.addRow({ name: 'assam', cups: 2 })
  sheet.addRow({ name: 'sum', cups: { formula: 'SUM(B2:B2)', result: 2 } })
  await book.xlsx.writeFile('/tmp/teas.xlsx')
  const read = new ExcelJS.Workbook()
  await read.xlsx.readFile('/tmp/teas.xlsx')
  const rows = []
  read.getWorksheet('Teas').eachRow((row) => rows.push(row.values.slice(1)))
  res.json({ ok: true, rows, magic: (await book.xlsx.writeBuffer()).toString('latin1', 0, 2) })
}
