'use strict'

// Loading a bundle: the process becomes the function's, then its module runs.

const Module = require('node:module')
const path = require('node:path')
const { pathToFileURL } = require('node:url')
const { types } = require('node:util')

const { writeLog } = require('./answers.js')
const { handlerOf } = require('./contracts.js')
const { watchEnd } = require('./ending.js')
const { findEntry, lookAt } = require('./entry.js')
const { Failure, failureOf } = require('./failure.js')
const importModule = require('./import.js')
const { NoHandler } = require('./no-handler.js')
const { programOfCommand, programOfScript, runProgram } = require('./program.js')

/** What a bundle that listens by itself is loaded as, in place of a handler. */
const PROGRAM = Symbol('program')

const { clearTimeout, Promise, setTimeout } = globalThis
const now = performance.now.bind(performance)

/**
 * Gives the process what a freshly started `node <file> <args>` would have.
 *
 * @param {{file: string, folder: string, flags?: string[], args?: string[]}} place
 * @param {Record<string, string>} env replaces the environment
 */
function become({ file, folder, flags = [], args = [] }, env) {
  for (const name of Object.keys(process.env)) delete process.env[name]
  Object.assign(process.env, env)
  process.chdir(folder)
  process.argv = [process.execPath, file, ...args]
  process.execArgv = flags
  process.title = 'node'
  process.mainModule = undefined
  Module.prototype.require.main = undefined
}

/**
 * Loads a bundle.
 *
 * @param {object} what
 * @param {string} what.entry the bundle's folder, or a file
 * @param {Record<string, string>} what.env
 * @param {number} what.loadTimeoutMs
 * @param {string[]} [what.command] the program to run; empty: what the bundle says
 * @param {string} [what.workingDir] '' for the bundle's folder
 * @param {import('./listening.js').Listening} [what.listening] without it, no program is run
 * @param {(error: Failure) => void} what.died told when the process is about to
 *   end while the module loads; nothing else will be
 * @returns {Promise<import('./contracts.js').Handler | PROGRAM> | import('./contracts.js').Handler}
 *   at once where the module loads at once
 * @throws {Failure}
 */
function load({ entry, env, loadTimeoutMs, command = [], workingDir = '', listening, died }) {
  let folder = entry
  let file
  const unwatch = watchExit(died, () => folder)
  const done = (what) => {
    unwatch()
    return what
  }
  const failed = (error) => {
    unwatch()
    throw failureOf(error, folder, file)
  }
  try {
    const bundle = lookAt(entry)
    folder = bundle.folder
    const program = listening && programOf(bundle, command, workingDir)
    if (program !== undefined) {
      folder = program.folder
      file = program.file
      enter(program, { ...env, ...program.env })
      return whenListens({ program, loadTimeoutMs, listening }).then(done, failed)
    }
    const place = findEntry(bundle)
    file = place.file
    enter({ file, folder: workingDir || folder }, env)
    const began = now()
    const exported = place.module ? importModule(pathToFileURL(place.file).href) : loadAtOnce(place.file)
    if (exported instanceof Promise) {
      return within(exported, loadTimeoutMs, () => timedOut(place, loadTimeoutMs))
        .then((namespace) => decide(namespace, place, loadTimeoutMs, listening)).then(done, failed)
    }
    const took = now() - began
    if (took > loadTimeoutMs) throw timedOut(place, loadTimeoutMs)
    const what = decide(exported, place, loadTimeoutMs, listening)
    return what instanceof Promise ? what.then(done, failed) : done(what)
  } catch (error) {
    return failed(error)
  }
}

// A file that Node finds to be an ES module with top-level await has not begun
// to run when require refuses it.
function loadAtOnce(file) {
  try {
    return Module._load(file, null, false)
  } catch (error) {
    if (error?.code === 'ERR_REQUIRE_ASYNC_MODULE') return importModule(pathToFileURL(file).href)
    throw error
  }
}

// The process becomes the function's; a working folder of the pod's must be there.
function enter(place, env) {
  try {
    become(place, env)
  } catch (error) {
    if (error.syscall !== 'chdir') throw error
    throw new Failure('LoadError', `the working folder ${place.folder} cannot be entered: ${error.code}; mount a volume there, or change workingDir`)
  }
}

// The program that the pod's command is, or else package.json's start script;
// undefined: neither.
function programOf(bundle, command, workingDir) {
  const folder = workingDir || bundle.folder
  if (command.length > 0) return { ...programOfCommand(command, folder), folder }
  if (bundle.file !== undefined || bundle.manifest === undefined) return undefined
  const program = programOfScript(bundle.manifest, bundle.folder)
  return program && { ...program, folder }
}

// A module that has loaded: a program if it listens, else a handler. One that
// exports no handler may still be about to listen.
function decide(exported, place, ms, listening) {
  let nothing
  if (!listening?.begun) {
    try {
      return handlerOf(exported, place.file)
    } catch (error) {
      if (!listening || !(error instanceof NoHandler)) throw error
      nothing = error
    }
  }
  const listens = untilListens(listening, ms, {
    late: () => nothing ?? notListened(place, ms),
    over: () => nothing ?? ended(place),
  })
  return nothing === undefined && looksLikeHandler(exported) ? listens.then((what) => notCalled(place, what)) : listens
}

// A server's module may export its application, or functions for its tests: of these
// nobody expects that they are called. What throws when it is looked at is none, too.
function looksLikeHandler(exported) {
  try {
    const value = types.isModuleNamespaceObject(exported) || exported?.__esModule === true ? exported.default ?? exported : exported
    if (typeof value === 'function') return value.length >= 2 && typeof value.listen !== 'function'
    if (value === null || typeof value !== 'object') return false
    if (Object.getPrototypeOf(value) !== Object.prototype && !types.isModuleNamespaceObject(value)) return false
    const values = Object.values(value)
    return typeof value.fetch === 'function' || values.length > 0 && values.every((one) => typeof one === 'function' && one.length >= 2)
  } catch {
    return false
  }
}

function notCalled(place, what) {
  writeLog(`${named(place)} began to listen while it was loading, so that it is a server, and the handler that it exports is not called: listen after it has loaded, or not at all\n`)
  return what
}

// Runs a program and waits until it listens. One that a start script names and
// that ends without having listened may be a handler that its author starts
// elsewhere by other means.
async function whenListens({ program, loadTimeoutMs, listening }) {
  const waiting = untilListens(listening, loadTimeoutMs, {
    late: () => notListened(program, loadTimeoutMs),
    over: () => handlerInstead(program) ?? ended(program),
  })
  waiting.catch(() => {}) // its outcome is the caller's, below
  await runProgram(program)
  const what = await waiting
  if (what !== PROGRAM) listening.alone(false)
  return what
}

function handlerInstead(program) {
  if (program.only || process.mainModule === undefined) return undefined
  try {
    return handlerOf(process.mainModule.exports, program.file)
  } catch {
    return undefined
  }
}

// Resolves with PROGRAM when a server listens. When nothing is left to do in the
// process `over` says what then, when the time is up `late` does: a handler, or
// an error.
function untilListens(listening, ms, { late, over }) {
  listening.alone(true)
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => settle(late()), ms)
    timer.unref()
    const empty = () => settle(over())
    process.on('beforeExit', empty)
    const settle = (what) => {
      clearTimeout(timer)
      process.off('beforeExit', empty)
      if (what instanceof Error) reject(what)
      else resolve(what)
    }
    listening.listens.then(() => settle(PROGRAM))
  })
}

const named = ({ file, folder, by }) =>
  (file.startsWith(folder + path.sep) ? file.slice(folder.length + 1) : file) + (by ? `, which ${by} names,` : '')

function notListened(what, ms) {
  const otherwise = what.by && handlerInstead(what) ? '; it exports a handler: to have that called, remove the start script' : ''
  return new Failure('LoadTimeout', `${named(what)} has not listened within ${ms} ms${otherwise}`)
}

function ended(what) {
  const otherwise = what.only ? '; to have a handler that it exports called, remove the command' : ''
  return new Failure('Exited', `${named(what)} ended with code ${process.exitCode ?? 0} and had not listened on any TCP port${otherwise}`)
}

function timedOut({ file, folder }, ms) {
  const name = file.slice(folder.length + 1)
  return new Failure('LoadTimeout', `${name} has not finished loading within ${ms} ms`)
}

function within(promise, ms, error) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(error()), ms)
    timer.unref()
    promise.then((value) => {
      clearTimeout(timer)
      resolve(value)
    }, (reason) => {
      clearTimeout(timer)
      reject(reason)
    })
  })
}

// Hears of the process ending while the module loads.
function watchExit(died, folder) {
  return watchEnd({
    exits: (code) => died(new Failure('Exited', `process.exit(${code}) was called while the function was loading`)),
    dies(error) {
      const failure = failureOf(error, folder())
      failure.printed = true // by Node itself
      died(failure)
    },
  })
}

module.exports = { load, PROGRAM }
