'use strict'

// The worker as one file, and what V8 has compiled of it: to find, read and compile
// a hundred files takes more than half of the time that a container needs to start.
// Both files are made with the image (deploy/images/bundle.go).

const fs = require('node:fs')
const path = require('node:path')
const vm = require('node:vm')

const FILE = path.join(__dirname, 'worker.bundle.js')

/** What this very Node.js and V8 have compiled; others refuse it. */
const COMPILED = path.join(__dirname, `worker.bundle.${process.version}.compiled`)

/** The bundle as a script. @param {Buffer} [compiled] what V8 has made of it before */
const script = (compiled) => new vm.Script(fs.readFileSync(FILE, 'latin1'), { filename: FILE, cachedData: compiled })

/** Runs the script, which is a function as Node.js makes them of CommonJS modules. */
function exportsOf(script) {
  const module = { exports: {} }
  script.runInThisContext()(module.exports, require, module, FILE, __dirname)
  return module.exports
}

module.exports = { COMPILED, exportsOf, script }
