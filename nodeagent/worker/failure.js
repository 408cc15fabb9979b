'use strict'

// Why a function cannot be loaded, said in one line.

const path = require('node:path')
const { fileURLToPath } = require('node:url')
const { inspect, types } = require('node:util')

const { locate } = require('./syntax-error.js')
const { NoHandler } = require('./no-handler.js')
const { traceOf } = require('./trace.js')

/** A function that does not load: what the agent is told. */
class Failure extends Error {
  /**
   * @param {'SyntaxError'|'ModuleNotFound'|'NoHandler'|'LoadError'|'LoadTimeout'|'Exited'} reason
   * @param {string} message one line
   * @param {string} [trace] the stack for the log; the message if there is none
   */
  constructor(reason, message, trace) {
    super(message)
    this.reason = reason
    this.trace = trace ?? `${reason}: ${message}`
  }
}

/**
 * Finds out what a thrown value says about loading.
 *
 * @param {unknown} thrown
 * @param {string} folder the bundle's; files below it are named relative to it
 * @param {string} [file] the module that was loaded
 * @returns {Failure}
 */
function failureOf(thrown, folder, file) {
  if (thrown instanceof Failure) return thrown
  if (thrown instanceof NoHandler) return new Failure('NoHandler', thrown.message.replaceAll(folder + path.sep, ''))
  const trace = traceOf(thrown)
  const short = (file) => relative(file, folder)

  if (thrown?.code === 'MODULE_NOT_FOUND') {
    const wanted = /Cannot find module '([^']*)'/.exec(thrown.message)?.[1]
    const importer = thrown.requireStack?.[0]
    if (wanted !== undefined) return new Failure('ModuleNotFound', missing(short(wanted), importer && short(importer)), trace)
  }
  if (thrown?.code === 'ERR_MODULE_NOT_FOUND') {
    const found = /Cannot find (?:package|module) '([^']*)' imported from (.*)$/m.exec(thrown.message)
    if (found) return new Failure('ModuleNotFound', missing(short(found[1]), short(found[2])), trace)
  }
  if (types.isNativeError(thrown) && thrown.name === 'SyntaxError') {
    // Only errors of the compiler begin with the place; one that running code
    // throws (JSON.parse) begins with its name.
    const place = /^((?:file:\/\/)?\/.*):(\d+)$/m.exec(firstLine(String(thrown.stack)))
    if (place) return new Failure('SyntaxError', `${short(place[1])}:${place[2]}: ${firstLine(thrown.message)}${more(thrown)}`, trace)
    if (/^\s+at compileSourceTextModule /m.test(thrown.stack)) {
      const found = file === undefined ? '' : locate(file)
      return new Failure('SyntaxError', (found && `${short(found)}: `) + firstLine(thrown.message), (found && `${found}\n`) + trace)
    }
    const json = /^(\/.*\.json): (.*)/.exec(thrown.message)
    if (json) return new Failure('SyntaxError', `${short(json[1])}: ${json[2]}`, trace)
  }
  return new Failure('LoadError', summary(thrown) + whereOf(thrown, folder), trace)
}

// What a user of TypeScript's compiler would not expect.
const more = (thrown) => (thrown.code !== 'ERR_UNSUPPORTED_TYPESCRIPT_SYNTAX' ? ''
  : '; of TypeScript only types that can be erased are supported: no enum, namespace with code, parameter property or import =')

/**
 * Finds out what an error says that nobody caught while the function ran.
 *
 * @param {unknown} thrown
 * @param {boolean} rejected whether it is that of a rejected promise
 * @param {string} folder the bundle's
 * @returns {{reason: string, message: string, trace: string}}
 */
function deathOf(thrown, rejected, folder) {
  return {
    reason: rejected ? 'UnhandledRejection' : 'UncaughtException',
    message: summary(thrown) + whereOf(thrown, folder),
    trace: traceOf(thrown),
  }
}

/**
 * What a call of process.exit is, seen from within it.
 *
 * @param {number} code
 * @param {string} folder the bundle's
 * @returns {{reason: string, message: string, trace: string}}
 */
function exitOf(code, folder) {
  const here = new Error(`process.exit(${code})`)
  return { reason: 'Exited', message: `process.exit(${code}) was called` + whereOf(here, folder), trace: traceOf(here) }
}

const missing = (wanted, importer) => `cannot find module '${wanted}'` + (importer ? `, imported by ${importer}` : '')

const firstLine = (text) => String(text).split('\n', 1)[0]

function relative(file, folder) {
  if (file.startsWith('file://')) {
    try {
      file = fileURLToPath(file)
    } catch {
      return file
    }
  }
  return file.startsWith(folder + path.sep) ? file.slice(folder.length + 1) : file
}

function summary(thrown) {
  if (types.isNativeError(thrown)) return firstLine(`${thrown.name}: ${thrown.message}`)
  try {
    return `threw ${firstLine(inspect(thrown, { depth: 0 }))}`
  } catch {
    return 'threw a value that cannot be shown'
  }
}

// The innermost place in the bundle.
function whereOf(thrown, folder) {
  if (!types.isNativeError(thrown)) return ''
  for (const line of String(thrown.stack).split('\n')) {
    const place = /^\s+at .*?((?:file:\/\/)?\/[^()]*:\d+):\d+\)?$/.exec(line)?.[1]
    if (place === undefined) continue
    const file = relative(place, folder)
    if (file !== place && !file.startsWith('/')) return ` (${file})`
  }
  return ''
}

module.exports = { Failure, deathOf, exitOf, failureOf }
