'use strict'

// How the process comes to its end by the function's own doing, and how it is
// made to end when it is no longer needed.

const { EventEmitter } = require('node:events')

const { apply } = Reflect
const { setImmediate } = globalThis
const { listenerCount } = EventEmitter.prototype

/** What a process killed by SIGTERM exits with, as shells and Kubernetes count. */
const TERMINATED = 128 + 15

/**
 * Hears of the process ending by process.exit or by an error that nobody
 * catches, before it does. No listener of process is added, because a function
 * could find it, and nothing of what Node.js then does is changed.
 *
 * @param {object} ends
 * @param {(code: number) => void} ends.exits process.exit(code) was called and its
 *   listeners have run
 * @param {(error: unknown, rejected: boolean) => void} ends.dies an error was not
 *   caught; rejected: it is that of a promise nobody handles. Node.js prints it
 *   into the log afterwards
 * @returns {() => void} stops watching
 */
function watchEnd({ exits, dies }) {
  const { reallyExit, _fatalException: fatal } = process
  process.reallyExit = (code) => {
    exits(Number(code) || 0)
    apply(reallyExit, process, [code])
  }
  // Node.js hands every uncaught error to this function, that of a rejected
  // promise too, and asks it whether somebody has caught the error.
  process._fatalException = function (error, rejected) {
    if (!isCaught()) dies(error, rejected === true)
    return apply(fatal, process, [error, rejected])
  }
  return () => {
    process.reallyExit = reallyExit
    process._fatalException = fatal
  }
}

const isCaught = () =>
  apply(listenerCount, process, ['uncaughtException']) > 0 || process.hasUncaughtExceptionCaptureCallback()

/** Says whether the function wants to hear of SIGTERM. */
const hearsTerm = () => apply(listenerCount, process, ['SIGTERM']) > 0

/**
 * Ends the process as SIGTERM would a program of its own: at once, if nobody
 * listens for it; else the listeners run, and the process ends when they end it
 * or when nothing is left that keeps it alive. The signal itself would do
 * nothing, because the first process of a container ignores it by default.
 *
 * @param {(code: number) => void} exit ends the process without running listeners
 */
function terminate(exit) {
  if (!hearsTerm()) exit(TERMINATED)
  // As a signal does: by itself, so that a listener that throws is nobody
  // else's error.
  setImmediate(() => process.emit('SIGTERM', 'SIGTERM', 15))
}

module.exports = { hearsTerm, terminate, watchEnd }
