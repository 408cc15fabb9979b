'use strict'

// The worker as containers start it, out of one file that is compiled already.

const fs = require('node:fs')

const { COMPILED, exportsOf, script } = require('./bundled.js')

const bundle = script(fs.readFileSync(COMPILED))
exportsOf(bundle).boot({ slow: bundle.cachedDataRejected })
