'use strict'

// A program of its own, run by syntax-error.js: finds the first ES module with a
// syntax error among a file and what it imports statically, runs none of them,
// and prints "file:line". Node knows the place of such an error, but shows it
// only to those with its internals.

const fs = require('node:fs')
const { createRequire } = require('node:module')
const { fileURLToPath, pathToFileURL } = require('node:url')
const { SourceTextModule } = require('node:vm')
const { decorateErrorStack } = require('internal/util')

const MAX_FILES = 2_000

const files = new Set([process.argv[2]])
for (const file of files) {
  if (files.size > MAX_FILES) break
  let module
  try {
    module = new SourceTextModule(fs.readFileSync(file, 'utf8'), { identifier: pathToFileURL(file).href })
  } catch (error) {
    if (error.name !== 'SyntaxError') continue
    decorateErrorStack(error)
    const place = /^(file:\/\/.*):(\d+)$/m.exec(String(error.stack).split('\n', 1)[0])
    if (place === null) continue
    process.stdout.write(`${fileURLToPath(place[1])}:${place[2]}`)
    break
  }
  for (const { specifier } of module.moduleRequests) {
    if (!/^\.{0,2}\/|^file:/.test(specifier)) continue // a package has been published once
    try {
      const found = specifier.startsWith('file:') ? fileURLToPath(specifier) : createRequire(file).resolve(specifier)
      if (/\.m?js$/.test(found)) files.add(found)
    } catch {
      // Missing, which is another failure than the one looked for.
    }
  }
}
