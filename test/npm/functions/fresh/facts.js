'use strict'

// What a module can find out about the process it is loaded in, as text by
// name, so that two processes can be compared.

const asyncHooks = require('node:async_hooks')
const http = require('node:http')
const Module = require('node:module')
const os = require('node:os')
const path = require('node:path')
const stream = require('node:stream')
const v8 = require('node:v8')

/** @returns {Record<string, string>} */
function facts() {
  const found = {}
  const note = (name, value) => { found[name] = typeof value === 'string' ? value : JSON.stringify(value) ?? 'undefined' }

  for (const name of ['argv0', 'execPath', 'execArgv', 'title', 'exitCode', 'platform', 'arch', 'version', 'versions', 'release', 'features', 'debugPort', 'noDeprecation', 'throwDeprecation', 'domain', 'connected', 'channel']) {
    note(`process.${name}`, process[name])
  }
  note('process.argv', process.argv.map((arg) => path.dirname(arg)))
  note('process.cwd()', process.cwd())
  note('process.umask()', process.umask())
  note('process.ids', [process.getuid(), process.geteuid(), process.getgid(), process.getgroups()])
  note('process.env', process.env)
  note('process.keys', Reflect.ownKeys(process).map(String).sort())
  note('process.listeners', process.eventNames().map((event) => `${String(event)} ${process.listenerCount(event)}`).sort())
  note('process.uncaught', process.hasUncaughtExceptionCaptureCallback())
  note('process.streams', [process.stdin, process.stdout, process.stderr].map(({ isTTY, constructor }) => [isTTY, constructor.name]))
  note('process.functions', functionsOf(process))
  note('process.active', process.getActiveResourcesInfo().sort())
  note('process.constrainedMemory()', process.constrainedMemory())
  note('process.sourceMaps', process.sourceMapsEnabled)

  note('os', [os.hostname(), os.userInfo(), os.homedir(), os.tmpdir(), os.availableParallelism(), os.totalmem(), os.getPriority(), os.release()])
  note('heap limit', v8.getHeapStatistics().heap_size_limit)
  note('error', [Error.stackTraceLimit, typeof Error.prepareStackTrace])
  note('globals', Reflect.ownKeys(globalThis).map(String).sort())
  note('symbols of globals', Object.getOwnPropertySymbols(globalThis).map(String).sort())
  note('async', [asyncHooks.executionAsyncResource()?.constructor?.name ?? 'none', new asyncHooks.AsyncLocalStorage().getStore()])

  note('require.cache', Object.keys(require.cache).map((file) => path.basename(file)).sort())
  note('module', [module.paths, module.parent === undefined, require.main === undefined, Module.globalPaths])
  note('Module', functionsOf(Module))
  note('Module._extensions', Object.entries(Module._extensions).map(([name, load]) => `${name} ${load}`))

  note('http', [http.maxHeaderSize, http.globalAgent.keepAlive, http.globalAgent.maxSockets, Object.keys(http.globalAgent.sockets), http.METHODS.length])
  for (const [name, value] of Object.entries({
    http, 'http.Server': http.Server.prototype, 'http.ServerResponse': http.ServerResponse.prototype, 'http.OutgoingMessage': http.OutgoingMessage.prototype,
    'http.IncomingMessage': http.IncomingMessage.prototype, 'net.Socket': require('node:net').Socket.prototype, 'net.Server': require('node:net').Server.prototype,
    Stream: stream.Stream.prototype, Readable: stream.Readable.prototype, EventEmitter: require('node:events').prototype, fs: require('node:fs'), child_process: require('node:child_process'),
    timers: require('node:timers'), console, Object, 'Object.prototype': Object.prototype, Array: Array.prototype, Function: Function.prototype, String: String.prototype, Promise: Promise.prototype, JSON, Reflect,
    Request: Request.prototype, Response: Response.prototype, Headers: Headers.prototype, URL: URL.prototype, Buffer: Buffer.prototype, Error: Error.prototype,
  })) {
    note(`functions of ${name}`, functionsOf(value))
    note(`state of ${name}`, [Object.isExtensible(value), Object.isFrozen(value)])
  }
  return found
}

// The own functions of an object, with their source: whoever replaced one shows.
function functionsOf(object) {
  return Reflect.ownKeys(object).filter((key) => key !== 'writeHeader').map((key) => { // another name of writeHead, until Node.js 26
    const { value, get, set, writable, enumerable, configurable } = Object.getOwnPropertyDescriptor(object, key)
    const source = typeof value === 'function' ? Function.prototype.toString.call(value) : typeof value
    return [String(key), [writable, enumerable, configurable].map(Number).join(''), String(get), String(set), source]
  }).sort(([a], [b]) => a < b ? -1 : 1)
}

module.exports = { facts }
