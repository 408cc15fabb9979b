'use strict'

const fs = require('node:fs')
const tar = require('tar')

module.exports = async (req, res) => {
  fs.mkdirSync('/tmp/in/folder', { recursive: true })
  fs.writeFileSync('/tmp/in/folder/tea.txt', 'assam', { mode: 0o640 })
  fs.symlinkSync('tea.txt', '/tmp/in/folder/link')
  await tar.create({ gzip: true, cwd: '/tmp/in', file: '/tmp/a.tgz' }, ['folder'])
  const listed = []
  await tar.list({ file: '/tmp/a.tgz', onReadEntry: ({ path, type }) => listed.push([path, type]) })
  fs.mkdirSync('/tmp/out')
  await tar.extract({ file: '/tmp/a.tgz', cwd: '/tmp/out' })
  res.json({ ok: true, listed: listed.sort(), read: fs.readFileSync('/tmp/out/folder/link', 'utf8'), mode: (fs.statSync('/tmp/out/folder/tea.txt').mode & 0o777).toString(8) })
}
