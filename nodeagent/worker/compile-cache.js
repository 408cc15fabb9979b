'use strict'

// V8's compile cache: what an earlier container of the same bundle has compiled,
// in a folder that the agent shows, and what this one has, for the next.

const fs = require('node:fs')
const Module = require('node:module')
const path = require('node:path')
const v8 = require('node:v8')

const { enableCompileCache, flushCompileCache, getSourceMapsSupport } = Module
const { parse, stringify } = JSON
const { defineProperty, getOwnPropertyDescriptor, getOwnPropertySymbols, keys } = Object
const { apply, deleteProperty } = Reflect
const { startsWith } = String.prototype
const { exec } = RegExp.prototype
const { readFileSync, statSync, writeFileSync } = fs
const { setImmediate } = globalThis
const { getBuiltinModule } = process
const now = performance.now.bind(performance)

/**
 * The name that Node gives to a folder of what this very Node and V8 compile,
 * as this user.
 */
const NAME = `${process.version}-${process.arch}-${v8.cachedDataVersionTag().toString(16).padStart(8, '0')}-${process.getuid()}`

/** The worker's part of a cache, beside Node's files. */
const PATHS = 'paths.json'

/** Most of the answers that are kept. */
const MAX_PATHS = 50_000

/**
 * Which file each `require` has found, as Node keeps it. To look for them is a
 * good part of what loading costs, and a bundle never changes.
 */
const found = Module._pathCache

/** How long the function's requests wait at most for another slice of recompiling. */
const SLICE_MS = 5

/** How long it may take in all: what Node.js took first is good, too, and the agent waits. */
const RENEW_MS = 3_000

/**
 * What `import` and `export` declarations mostly begin with. Of spaces no more than
 * one line's are looked at, or a file with many blank lines would take for ever.
 */
const ES_MODULE = /^[ \t]*(?:import|export)(?:[ \t]+[\w$]|[ \t]*[{*'"])/m

/** What a function changes that has code transformed before it is compiled. */
const loading = {
  compile: Module.prototype._compile, wrap: Module.wrap, begin: Module.wrapper[0], end: Module.wrapper[1],
  js: Module._extensions['.js'], ts: Module._extensions['.ts'],
}

/** The folder; '' while there is none. */
let folder = ''

/** Whether nobody has written it before. */
let fresh = false

/**
 * Uses a cache from now on, until the process ends: there is no way back. For a
 * single small file it costs more than it gains, so it is not done before the
 * agent says so.
 *
 * @param {string} dir a folder with the name above
 * @param {boolean} filled whether an earlier container has written it
 */
function enable(dir, filled) {
  enableCompileCache(path.dirname(dir))
  if (Module.getCompileCacheDir() !== dir) return // loading works without
  folder = dir
  fresh = !filled
  if (filled) recall()
}

function recall() {
  let paths
  try {
    paths = parse(readFileSync(`${folder}/${PATHS}`, 'utf8'))
  } catch {
    return // not a word of it is needed
  }
  if (paths === null || typeof paths !== 'object') return
  for (const key of keys(paths)) {
    if (typeof paths[key] === 'string') found[key] = paths[key]
  }
}

/**
 * Writes the cache, in slices between which requests are answered. What cannot be
 * written is not cached; nobody is harmed.
 *
 * @param {string} entry the bundle's folder, or a file in it
 * @param {() => void} written called once, later or at once
 */
function write(entry, written) {
  if (folder === '') return written()
  let bundle
  try {
    bundle = (statSync(entry).isDirectory() ? entry : path.dirname(entry)) + '/'
  } catch {
    return written() // the function has been at what it can reach
  }
  const finish = () => {
    flushCompileCache()
    remember(bundle)
    written()
  }
  if (!fresh) return finish()
  fresh = false
  renewAll(bundle, finish)
}

/**
 * Has Node.js take anew what V8 has of the bundle's CommonJS modules. Node.js
 * takes it right after it has compiled a module; what the module calls while it
 * loads V8 compiles afterwards, and that is a good part of what loading costs.
 */
function renewAll(bundle, done) {
  let files = []
  try {
    files = keys(Module._cache)
  } catch {
    // the function has been at what it can reach
  }
  let at = 0
  const end = now() + RENEW_MS
  const slice = () => {
    const began = now()
    // The function may have seen to that since the last slice.
    if (began > end || !isPlain()) at = files.length
    while (at < files.length && now() - began < SLICE_MS) {
      try {
        if (apply(startsWith, files[at], [bundle])) renew(files[at], Module._cache[files[at]])
      } catch {
        // no file that can be read, or no module of Node's
      }
      at++
    }
    if (at < files.length) setImmediate(slice)
    else done()
  }
  slice()
}

/**
 * Whether to compile a file makes what it made when it was loaded, and nothing
 * else. Where source maps are on Node.js would keep the map for the module that is
 * made here, and forget it with that.
 */
function isPlain() {
  try {
    return Module.prototype._compile === loading.compile && Module.wrap === loading.wrap &&
      Module.wrapper[0] === loading.begin && Module.wrapper[1] === loading.end &&
      Module._extensions['.js'] === loading.js && Module._extensions['.ts'] === loading.ts &&
      !getSourceMapsSupport().enabled && !process.env.NODE_V8_COVERAGE &&
      apply(getBuiltinModule, process, ['node:inspector']).url() === undefined // a debugger would see it
  } catch {
    return false // the function has been at what it can reach
  }
}

/**
 * Has a module compiled again. Of one and the same text V8 has the functions still,
 * with all that was compiled of them since, and so it costs little. Node.js keeps
 * what it took of a text first; of another text in between it takes it again.
 */
function renew(file, module) {
  const format = formatOf(module)
  if (format === undefined) return
  const text = readFileSync(file, 'utf8')
  if (format === 'commonjs' && apply(exec, ES_MODULE, [text]) !== null) return // a hook has made CommonJS of it
  const emit = getOwnPropertyDescriptor(process, 'emit')
  // Of a text that a hook has made CommonJS of all the same Node.js warns at once.
  defineProperty(process, 'emit', { value() {}, configurable: true })
  try {
    compile(file, '', format)
    compile(file, text, format)
  } finally {
    if (emit === undefined) deleteProperty(process, 'emit')
    else defineProperty(process, 'emit', emit)
  }
}

/**
 * What the module was compiled as; undefined if it is none of CommonJS. Node.js
 * marks those that it runs.
 */
function formatOf(module) {
  let runs = false
  let format
  for (const symbol of getOwnPropertySymbols(module)) {
    if (symbol.description === 'kIsExecuting') runs = true
    else if (symbol.description === 'kFormat') format = module[symbol]
  }
  if (!runs) return undefined
  if (format === 'typescript' || format === 'commonjs-typescript') return 'commonjs-typescript'
  return format === undefined || format === 'commonjs' ? 'commonjs' : undefined
}

/** What stops a module between its being compiled and its being run. */
const STOP = new Error('not to be run')

function compile(file, text, format) {
  const module = new Module(file, null)
  module.filename = file
  defineProperty(module, 'exports', { get() { throw STOP } })
  try {
    apply(loading.compile, module, [text, file, format])
  } catch (error) {
    if (error !== STOP) throw error
  }
}

/** Writes which file each `require` of the bundle has found. */
function remember(bundle) {
  try {
    const paths = {}
    let count = 0
    for (const key of keys(found)) {
      const file = found[key]
      if (typeof file !== 'string' || !apply(startsWith, file, [bundle])) continue
      paths[key] = file
      if (++count === MAX_PATHS) break
    }
    writeFileSync(`${folder}/${PATHS}`, stringify(paths))
  } catch {
    // the folder is full, or the function has been at what it can reach
  }
}

module.exports = { NAME, enable, write }
