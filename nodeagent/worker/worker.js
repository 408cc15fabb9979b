'use strict'

// The worker of a SanFran container. It inherits a listening TCP socket (3), a
// control socket to the agent (4) and a pipe for the function's log (5), makes
// itself warm, and waits to be told which function to become. README.md has the protocol and the contracts.

const openStderr = require('./stderr.js').keepClosed()

const { writeLog } = require('./answers.js')
const compileCache = require('./compile-cache.js')
const { Control } = require('./control.js')
const { hearsTerm, terminate, watchEnd } = require('./ending.js')
const { folderOf } = require('./entry.js')
const { deathOf, exitOf } = require('./failure.js')
const { leaseOf } = require('./lease.js')
const { load, PROGRAM } = require('./load.js')
const { Listening } = require('./listening.js')
const { install: installLog, report } = require('./log.js')
const { refresh } = require('./express.js')
const { FunctionServer } = require('./server.js')
const { warmUp } = require('./warmup.js')

const LISTENER_FD = 3
const CONTROL_FD = 4

/** How long after a failure the process ends even if the agent does not read. */
const FAILED_EXIT_MS = 500

/** Most of a failure's texts that is told: what it says then fits into a message. */
const MAX_MESSAGE = 4 << 10
const MAX_STACK = 32 << 10

const { Promise, setTimeout } = globalThis
const { getBuiltinModule } = process
const { apply } = Reflect
const { slice } = String.prototype
const { then } = Promise.prototype
const now = performance.now.bind(performance)
// Ends the process at once, whatever the function has put in the way.
const exit = process.reallyExit.bind(process)

const early = [] // messages that came while warming up
let control
let server
let listening
let state = 'warming'
let bundle = null // of which function this is

/**
 * Becomes the worker of this container. Once.
 *
 * @param {{slow?: boolean}} [how] slow: V8 has refused what it was given as compiled
 */
async function boot({ slow } = {}) {
  control = new Control(CONTROL_FD, {
    receive: (message) => (state === 'warming' ? early.push(message) : receive(message)),
    broken(reason) {
      if (reason !== null) report(`the control protocol is broken: ${reason}`)
      exit(reason === null ? 0 : 1)
    },
  })
  await warmUp()
  openStderr()
  installLog()
  if (slow) report('V8 has refused what was compiled of the worker when the image was made, so that this container has started slowly')
  server = new FunctionServer((activity) =>
    control.send({ type: 'activity', ...activity, ...asked }))
  server.http.listen({ fd: LISTENER_FD }, () => {
    listening = new Listening(server, () => state === 'loading')
    state = 'warm'
    control.send({ type: 'warm', compileCache: compileCache.NAME })
    for (const message of early.splice(0)) receive(message)
  })
}

// In parentheses a function is compiled with its file, and not when it is first
// called: these three run once, while a request waits.
const receive = (function receive(message) {
  if (message.type === 'activate' && state === 'warm') {
    activate(message)
  } else if (message.type === 'drain' && (state === 'ready' || state === 'loading')) {
    state = 'draining'
    apply(then, server.drain(message.graceMs), [() => {
      hasDrained = true
      control.send({ type: 'drained', sigterm: hearsTerm() })
    }])
  } else if (message.type === 'drain' && state === 'draining' && hasDrained) {
    // The agent's process that asked first has died, perhaps before it had the answer.
    control.send({ type: 'drained', sigterm: hearsTerm() })
  } else if (message.type === 'ping' && state !== 'warm') {
    asked = { debugger: isDebugged() || undefined, sigterm: hearsTerm() || undefined }
    server.report()
  } else if (message.type === 'terminate' && (state === 'ready' || state === 'draining')) {
    if (message.early && !hearsTerm()) return
    state = 'terminating'
    server.release()
    terminate(exit)
  } else if (message.type === 'terminate' && state === 'terminating') {
    // It was told early.
  } else if (message.type === 'drain' && state === 'warm') {
    control.send({ type: 'drained', sigterm: false })
  } else if (message.type === 'compile' && state !== 'loading') {
    compileCache.write(bundle, () => control.send({ type: 'compiled' }))
  } else if (message.type !== 'drain') {
    report(`the control protocol is broken: ${message.type} while ${state}`)
    exit(1)
  }
})

let hasDrained = false

// What was so when the agent last asked: a function that is being debugged may stand
// still for as long as it likes, and one that listens for SIGTERM is told in time.
let asked = {}
const isDebugged = () => apply(getBuiltinModule, process, ['node:inspector']).url() !== undefined

const activate = (function activate({ entry, env, loadTimeoutMs, command, workingDir, port, compileCache: cache, compileCacheFilled, ...rest }) {
  const began = now()
  bundle = entry
  if (cache) compileCache.enable(cache, compileCacheFilled)
  state = 'loading'
  server.activate(leaseOf(rest))
  listening.podPort = port
  let handler
  try {
    handler = load({ entry, env, loadTimeoutMs, command, workingDir, listening, died: failed })
  } catch (failure) {
    failed(failure)
    return
  }
  const folder = folderOf(entry)
  if (handler instanceof Promise) handler.then((handler) => ready(handler, folder, began), failed)
  else ready(handler, folder, began)
})

const ready = (function ready(handler, folder, began) {
  watchEnd({
    exits: (code) => ending(exitOf(code, folder)),
    dies: (error, rejected) => ending(deathOf(error, rejected, folder)),
  })
  refresh()
  if (handler === PROGRAM) server.serveProgram()
  else server.serve(handler)
  if (state === 'loading') state = 'ready'
  control.send({ type: 'ready', loadMs: now() - began, kind: handler === PROGRAM ? 'server' : 'handler' })
})

let hasEnded = false
function failed(failure) {
  if (hasEnded) return
  hasEnded = true
  try {
    if (!failure.printed) writeLog(failure.trace + '\n')
  } catch {
    // The function has put something of its own there; the agent is told all the same.
  }
  tellEnd('failed', failure, () => exit(1))
  setTimeout(() => exit(1), FAILED_EXIT_MS)
}

// The process ends by the function's doing. What the agent made end is no news
// to it.
function ending(death) {
  if (hasEnded || state === 'terminating') return
  hasEnded = true
  tellEnd('ending', death)
}

function tellEnd(type, { reason, message, trace }, written) {
  control.send({
    type, reason, message: apply(slice, message, [0, MAX_MESSAGE]), stack: apply(slice, trace, [0, MAX_STACK]),
  }, written)
}

module.exports = { boot }
