'use strict'

// Imports a module by its URL. This is a file of its own because only files that
// Node.js has loaded itself may import: the bundle of the worker is not one.

module.exports = (url) => import(url)
