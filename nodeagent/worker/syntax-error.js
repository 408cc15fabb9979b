'use strict'

// Where a syntax error is.

const { spawnSync } = require('node:child_process')
const { join } = require('node:path')

const LIMIT_MS = 3_000

/**
 * Finds the place of an ES module's syntax error, which Node does not tell the
 * code that imports it, by a second Node.js that compiles the modules again.
 *
 * @param {string} file the module that was imported
 * @returns {string} "file:line", or '' if it is not among the static imports
 *   or could not be looked for
 */
function locate(file) {
  const { status, stdout } = spawnSync(process.execPath,
    ['--no-warnings', '--expose-internals', '--experimental-vm-modules', join(__dirname, 'locate.js'), file],
    { env: {}, encoding: 'utf8', timeout: LIMIT_MS, stdio: ['ignore', 'pipe', 'ignore'] })
  return status === 0 ? stdout : ''
}

module.exports = { locate }
