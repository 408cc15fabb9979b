'use strict'

const here = require('./facts.js').facts()

process.stdout.write(JSON.stringify(here))
