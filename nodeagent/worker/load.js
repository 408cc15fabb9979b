'use strict'

// Loading a bundle: the process becomes the function's, then its module runs.

const Module = require('node:module')
const { pathToFileURL } = require('node:url')

const { handlerOf } = require('./contracts.js')
const { findEntry } = require('./entry.js')
const { Failure, failureOf } = require('./failure.js')

const { clearTimeout, Promise, setTimeout } = globalThis
const now = performance.now.bind(performance)

/**
 * Gives the process what a freshly started `node <file>` would have.
 *
 * @param {{file: string, folder: string}} place
 * @param {Record<string, string>} env replaces the environment
 */
function become({ file, folder }, env) {
  for (const name of Object.keys(process.env)) delete process.env[name]
  Object.assign(process.env, env)
  process.chdir(folder)
  process.argv = [process.execPath, file]
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
 * @param {(error: Failure) => void} what.died told when the process is about to
 *   end while the module loads; nothing else will be
 * @returns {Promise<import('./contracts.js').Handler> | import('./contracts.js').Handler}
 *   at once where the module loads at once
 * @throws {Failure}
 */
function load({ entry, env, loadTimeoutMs, died }) {
  let folder = entry
  let file
  const unwatch = watchExit(died, () => folder)
  try {
    const place = findEntry(entry)
    folder = place.folder
    file = place.file
    become(place, env)
    const began = now()
    const exported = place.module ? import(pathToFileURL(place.file).href) : loadAtOnce(place.file)
    if (!(exported instanceof Promise)) {
      unwatch()
      const took = now() - began
      if (took > loadTimeoutMs) throw timedOut(place, loadTimeoutMs)
      return handlerOf(exported, place.file)
    }
    return within(exported, loadTimeoutMs, () => timedOut(place, loadTimeoutMs)).then(
      (namespace) => {
        unwatch()
        try {
          return handlerOf(namespace, place.file)
        } catch (error) {
          throw failureOf(error, folder, file)
        }
      },
      (error) => {
        unwatch()
        throw failureOf(error, folder, file)
      },
    )
  } catch (error) {
    unwatch()
    throw failureOf(error, folder, file)
  }
}

// A file that Node finds to be an ES module with top-level await has not begun
// to run when require refuses it.
function loadAtOnce(file) {
  try {
    return Module._load(file, null, false)
  } catch (error) {
    if (error?.code === 'ERR_REQUIRE_ASYNC_MODULE') return import(pathToFileURL(file).href)
    throw error
  }
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

// Hears of the process ending by process.exit or an uncaught error, without a
// listener that would change what Node does then.
function watchExit(died, folder) {
  const { reallyExit } = process
  process.reallyExit = (code) => {
    died(new Failure('Exited', `process.exit(${code ?? 0}) was called while the function was loading`))
    reallyExit.call(process, code)
  }
  const monitor = (error) => {
    if (process.listenerCount('uncaughtException') > 0 || process.hasUncaughtExceptionCaptureCallback()) return
    const failure = failureOf(error, folder())
    failure.printed = true // by Node itself
    died(failure)
  }
  process.on('uncaughtExceptionMonitor', monitor)
  return () => {
    process.reallyExit = reallyExit
    process.off('uncaughtExceptionMonitor', monitor)
  }
}

module.exports = { load }
