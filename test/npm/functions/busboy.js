'use strict'

const busboy = require('busboy')

// Reads the request as a stream.
module.exports = (req, res) => {
  const found = []
  const parser = busboy({ headers: req.headers })
  parser.on('field', (name, value) => found.push([name, value]))
  parser.on('file', (name, file, { filename, mimeType }) => {
    let size = 0
    file.on('data', (chunk) => (size += chunk.length))
    file.on('end', () => found.push([name, filename, mimeType, size]))
  })
  parser.on('close', () => res.json({ ok: true, found }))
  req.pipe(parser)
}
