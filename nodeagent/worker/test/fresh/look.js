'use strict'

// What code can see of the process that it runs in. A function runs it in a
// worker, and so does a program that Node.js has just started; what they see
// must be the same.

Request // the first look at it defines two symbols on globalThis

const { createHash } = require('node:crypto')
const dc = require('node:diagnostics_channel')
const events = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const https = require('node:https')
const Module = require('node:module')
const os = require('node:os')

const EVENTS = ['exit', 'beforeExit', 'uncaughtException', 'unhandledRejection', 'rejectionHandled', 'warning', 'worker', 'SIGTERM', 'SIGINT', 'SIGHUP', 'message', 'disconnect', 'newListener', 'multipleResolves']
const CHANNELS = ['http.client.request.start', 'http.server.request.start', 'http.server.response.finish', 'net.client.socket', 'net.server.socket', 'undici:request:create', 'undici:client:connected', 'child_process', 'worker_threads', 'console.log']

/** State that a program can ask for. */
exports.state = (module) => ({
  argv: process.argv, main: process.mainModule?.filename, requireMain: require.main?.filename, env: { ...process.env }, cwd: process.cwd(), argv0: process.argv0, execArgv: process.execArgv, title: process.title, exitCode: process.exitCode ?? null, umask: process.umask(),
  cache: Object.keys(require.cache).map((file) => file.slice(file.lastIndexOf('/'))), children: module.children.map((m) => m.id.slice(m.id.lastIndexOf('/'))), extensions: Object.keys(Module._extensions),
  pathCache: Object.keys(Module._pathCache ?? {}).filter((key) => key.includes('/worker/')), globalPaths: Module.globalPaths,
  listeners: Object.fromEntries(EVENTS.map((name) => [name, process.listenerCount(name)])), monitors: process.listenerCount('uncaughtExceptionMonitor'), captured: process.hasUncaughtExceptionCaptureCallback(),
  handles: process._getActiveHandles().map((h) => h.constructor.name).sort(), requests: process._getActiveRequests().length, resources: process.getActiveResourcesInfo().sort(),
  report: { ...process.report, signal: process.report.signal, directory: process.report.directory, filename: process.report.filename, onSignal: process.report.reportOnSignal, onFatal: process.report.reportOnFatalError, onUncaught: process.report.reportOnUncaughtException },
  entries: performance.getEntries().map((e) => `${e.entryType} ${e.name}`), buffer: performance.onresourcetimingbufferfull, supported: PerformanceObserver.supportedEntryTypes,
  subscribers: CHANNELS.filter((name) => dc.hasSubscribers(name)), limit: Error.stackTraceLimit, prepare: typeof Error.prepareStackTrace, maxListeners: events.defaultMaxListeners, rejections: events.captureRejections,
  agents: [http, https].map(({ globalAgent: a }) => [Object.keys(a.sockets), Object.keys(a.freeSockets), Object.keys(a.requests), a.totalSocketCount, a.keepAlive, a.maxSockets, JSON.stringify(a.options)]),
  http: [http.maxHeaderSize, http.METHODS.length], hooks: require('node:async_hooks').executionAsyncResource().constructor.name === 'Object' || 'in a callback', store: new (require('node:async_hooks').AsyncLocalStorage)().getStore() ?? null,
  dns: require('node:dns').getDefaultResultOrder(), compileCache: Module.getCompileCacheDir?.() ?? null, tmp: fs.readdirSync(os.tmpdir()), offset: new Date(2020, 6).getTimezoneOffset(), locale: Intl.DateTimeFormat().resolvedOptions().locale,
  domain: process.domain ?? null, sourceMaps: process.sourceMapsEnabled, coverage: process.env.NODE_V8_COVERAGE ?? null, deprecation: [process.noDeprecation, process.throwDeprecation, process.traceDeprecation].map(Boolean), connected: process.connected ?? null,
})

// What differs between any two processes.
const VOLATILE = /^(process\.(pid|ppid|env|argv|title|report|config|release|versions|features|_events|_eventsCount|mainModule|moduleLoadList|debugPort|exitCode|stdout|stderr|stdin)|performance\.(nodeTiming|timeOrigin)|node:module\.(_pathCache|_cache|_debug)|node:module\.prototype\.require\.main|globalThis\.(module|exports|require))\b/

/**
 * Everything that can be reached from the globals and from Node's modules by
 * names: path → what is there, in short.
 */
exports.world = () => {
  const seen = new Set([module, require.cache, process.env])
  const world = {}
  const visit = (path, object, depth) => {
    if (seen.has(object) || depth > 7) return
    seen.add(object)
    for (const key of Reflect.ownKeys(object)) {
      const name = `${path}.${String(key)}`
      if (VOLATILE.test(name)) continue
      const descriptor = Reflect.getOwnPropertyDescriptor(object, key)
      const flags = `${descriptor.enumerable ? 'e' : ''}${descriptor.configurable ? 'c' : ''}${descriptor.writable ? 'w' : ''}`
      world[name] = `${flags} ${short(descriptor.value)} ${short(descriptor.get)} ${short(descriptor.set)}`
      for (const value of [descriptor.value, descriptor.get, descriptor.set]) if (value !== null && (typeof value === 'object' || typeof value === 'function') && !Buffer.isBuffer(value)) visit(name, value, depth + 1)
    }
    const prototype = Reflect.getPrototypeOf(object)
    if (prototype !== null) visit(`${path}.__proto__`, prototype, depth + 1)
  }
  for (const name of Object.getOwnPropertyNames(globalThis)) globalThis[name] // made when first looked at
  const modules = Module.builtinModules.filter((name) => !/^_|^(sys|punycode|wasi|inspector|trace_events|domain|process)\b|^node:(test|sea|sqlite)/.test(name))
  for (const name of modules) require(`node:${name.replace(/^node:/, '')}`)
  for (const name of modules) visit(`node:${name}`, require(`node:${name.replace(/^node:/, '')}`), 0)
  visit('globalThis', globalThis, 0)
  return world
}

function short(value) {
  if (typeof value === 'function') return `function ${value.name} ${value.length} ${createHash('sha1').update(Function.prototype.toString.call(value)).digest('hex').slice(0, 8)}`
  if (value !== null && typeof value === 'object') return 'object'
  return typeof value === 'symbol' ? 'symbol' : `${typeof value} ${String(value).slice(0, 100)}`
}
