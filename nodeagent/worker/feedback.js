'use strict'

// What V8 notes of the types that a function meets, by which it later compiles and
// inlines it. It is noted for ever: Node's HTTP code, having met the requests and
// responses of the warm-up and a program's plain ones, would be slower for either.

const v8 = require('node:v8')

/** From which call of a function on V8 notes, in all the Node.js that we run. */
const DEFAULT_CALLS = 8
/** More calls than any function has while the worker warms up. */
const MANY_CALLS = 64

const noteFrom = (calls) => v8.setFlagsFromString(`--invocation-count-for-feedback-allocation=${calls}`)

/**
 * Has V8 note nothing of functions that are first called meanwhile. They are
 * compiled, and run as quickly as any at their first calls.
 *
 * @param {() => Promise<void>} run
 */
async function unnoted(run) {
  noteFrom(MANY_CALLS)
  try {
    await run()
  } finally {
    noteFrom(DEFAULT_CALLS)
  }
}

module.exports = { unnoted, DEFAULT_CALLS }
