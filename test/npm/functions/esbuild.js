'use strict'

// Runs a program of its own and talks to it over pipes.
const esbuild = require('esbuild')
const fs = require('node:fs')

module.exports = async (req, res) => {
  fs.writeFileSync('/tmp/tea.ts', 'export const tea: string = "assam"\nexport const unused = 1\n')
  const { outputFiles } = await esbuild.build({ stdin: { contents: 'import { tea } from "./tea"; console.log(tea)', resolveDir: '/tmp' }, bundle: true, minify: true, write: false })
  const wrong = await esbuild.transform('let a = ;').catch((error) => error.errors.map(({ text }) => text))
  const { code } = await esbuild.transform('const f = async () => { await 1 }', { target: 'es2015', minify: true })
  await esbuild.stop()
  res.json({ ok: true, bundled: outputFiles[0].text.trim(), wrong, lowered: code.includes('Promise') })
}
