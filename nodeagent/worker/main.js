'use strict'

// The worker of a SanFran container. It inherits a listening TCP socket (3), a
// control socket to the agent (4) and a pipe for the function's log (5), makes
// itself warm, and waits to be told which function to become. README.md has the protocol and the contracts.

const openStderr = require('./stderr.js').keepClosed()

const { writeLog } = require('./answers.js')
const { Control } = require('./control.js')
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
const { apply } = Reflect
const { slice } = String.prototype
const now = performance.now.bind(performance)
// Ends the process at once, whatever the function has put in the way.
const exit = process.reallyExit.bind(process)

const early = [] // messages that came while warming up
let control
let server
let listening
let state = 'warming'

control = new Control(CONTROL_FD, {
  receive: (message) => (state === 'warming' ? early.push(message) : receive(message)),
  broken(reason) {
    if (reason !== null) report(`the control protocol is broken: ${reason}`)
    exit(reason === null ? 0 : 1)
  },
})
boot()

async function boot() {
  await warmUp()
  openStderr()
  installLog()
  server = new FunctionServer(({ inFlight, direct }) => control.send({ type: 'activity', inFlight, direct }))
  server.http.listen({ fd: LISTENER_FD }, () => {
    listening = new Listening(server, () => state === 'loading')
    state = 'warm'
    control.send({ type: 'warm' })
    for (const message of early.splice(0)) receive(message)
  })
}

function receive(message) {
  if (message.type === 'activate' && state === 'warm') {
    activate(message)
  } else if (message.type === 'drain' && (state === 'ready' || state === 'loading')) {
    state = 'draining'
    server.drain(message.graceMs).then(() => control.send({ type: 'drained' }))
  } else if (message.type === 'drain' && state === 'warm') {
    control.send({ type: 'drained' })
  } else if (message.type !== 'drain') {
    report(`the control protocol is broken: ${message.type} while ${state}`)
    exit(1)
  }
}

function activate({ entry, env, loadTimeoutMs, command, workingDir, port, ...rest }) {
  const began = now()
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
  if (handler instanceof Promise) handler.then((handler) => ready(handler, began), failed)
  else ready(handler, began)
}

function ready(handler, began) {
  refresh()
  if (handler === PROGRAM) server.serveProgram()
  else server.serve(handler)
  if (state === 'loading') state = 'ready'
  control.send({ type: 'ready', loadMs: now() - began, kind: handler === PROGRAM ? 'server' : 'handler' })
}

let hasFailed = false
function failed(failure) {
  if (hasFailed) return
  hasFailed = true
  if (!failure.printed) writeLog(failure.trace + '\n')
  const message = apply(slice, failure.message, [0, MAX_MESSAGE])
  const stack = apply(slice, failure.trace, [0, MAX_STACK])
  control.send({ type: 'failed', reason: failure.reason, message, stack }, () => exit(1))
  setTimeout(() => exit(1), FAILED_EXIT_MS)
}
