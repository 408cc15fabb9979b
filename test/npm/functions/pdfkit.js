'use strict'

const { buffer } = require('node:stream/consumers')
const { inflateSync } = require('node:zlib')
const PDFDocument = require('pdfkit')

module.exports = async (req, res) => {
  const document = new PDFDocument({ size: 'A5', info: { Title: 'Invoice' } })
  const done = buffer(document)
  document.font('Times-Roman').fontSize(20).text('Hello tea', 50, 50)
  document.addPage().rect(10, 10, 100, 50).fill('red')
  document.end()
  const pdf = await done
  const text = pdf.toString('latin1')
  const streams = [...text.matchAll(/stream\n([\s\S]*?)\nendstream/g)].map(([, body]) => {
    try { return inflateSync(Buffer.from(body, 'latin1')).toString('latin1') } catch { return '' }
  })
  res.json({
    ok: true, head: text.slice(0, 5), end: text.trimEnd().endsWith('%%EOF'), pages: text.match(/\/Type \/Page\b/g).length, title: text.includes('(Invoice)'),
    font: text.includes('/BaseFont /Times-Roman'), drawn: streams.some((body) => body.includes('10 10 100 50 re')), letters: streams.some((body) => body.includes(Buffer.from('Hello').toString('hex'))),
  })
}
