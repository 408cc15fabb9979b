// System calls, by native.c: each attack has its name there.
'use strict'
const { native } = require('./attempt.js')

module.exports = new Proxy({}, { get: (_, name) => () => native(name) })
