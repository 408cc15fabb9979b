'use strict'

// How an error of a function is shown in its log.

const path = require('node:path')
const { inspect } = require('node:util')

/** The worker's own folder; its frames are no news to a function's author. */
const OWN = __dirname + path.sep
const FRAME = /^\s+at /

/**
 * What Node would print of a thrown value, stack, causes and properties, without
 * the worker's own frames. It never throws.
 */
function traceOf(thrown) {
  let text
  try {
    text = inspect(thrown)
  } catch {
    return 'an error that cannot be shown: inspecting it throws'
  }
  if (!text.includes(OWN)) return text
  return text.split('\n').filter((line) => !(FRAME.test(line) && line.includes(OWN))).join('\n')
}

module.exports = { traceOf }
