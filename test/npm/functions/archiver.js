'use strict'

const { buffer } = require('node:stream/consumers')
const { crc32 } = require('node:zlib')
const AdmZip = require('adm-zip')
// An ES module, which require loads, too.
const { ZipArchive } = require('archiver')

module.exports = async (req, res) => {
  const archive = new ZipArchive({ zlib: { level: 9 } })
  const done = buffer(archive)
  archive.append('tea '.repeat(1000), { name: 'folder/tea.txt' })
  archive.append(Buffer.from([1, 2, 3]), { name: 'bytes' })
  await archive.finalize()
  const zip = new AdmZip(await done)
  const text = zip.readAsText('folder/tea.txt')
  res.json({ ok: true, names: zip.getEntries().map(({ entryName }) => entryName).sort(), length: text.length, crc: crc32(text), small: (await done).length < 1000 })
}
