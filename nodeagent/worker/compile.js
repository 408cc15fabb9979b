'use strict'

// A program of its own, run when the image is made: writes what V8 compiles of the
// bundle to load it. `node --random-seed=1 compile.js` gives the same bytes each time.

const fs = require('node:fs')

const { COMPILED, exportsOf, script } = require('./bundled.js')

const bundle = script()
exportsOf(bundle)
fs.writeFileSync(COMPILED, bundle.createCachedData())
// Loading has begun nothing that is to be waited for.
process.reallyExit(0)
