'use strict'

// V8's compile cache: what an earlier container of the same bundle has compiled,
// in a folder that the agent shows, and what this one has, for the next.

const fs = require('node:fs')
const Module = require('node:module')
const path = require('node:path')
const v8 = require('node:v8')

const { enableCompileCache, flushCompileCache } = Module
const { parse, stringify } = JSON
const { keys } = Object
const { apply } = Reflect
const { startsWith } = String.prototype
const { readFileSync, statSync, writeFileSync } = fs

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

/** The folder; '' while there is none. */
let folder = ''

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
 * Writes the cache. What cannot be written is not cached; nobody is harmed.
 *
 * @param {string} entry the bundle's folder, or a file in it
 */
function write(entry) {
  if (folder === '') return
  flushCompileCache()
  try {
    const bundle = statSync(entry).isDirectory() ? entry : path.dirname(entry)
    const paths = {}
    let count = 0
    for (const key of keys(found)) {
      const file = found[key]
      if (typeof file !== 'string' || !apply(startsWith, file, [bundle + '/'])) continue
      paths[key] = file
      if (++count === MAX_PATHS) break
    }
    writeFileSync(`${folder}/${PATHS}`, stringify(paths))
  } catch {
    // the folder is full, or the function has been at what it can reach
  }
}

module.exports = { NAME, enable, write }
