'use strict'

// Which file of a bundle is loaded.

const fs = require('node:fs')
const path = require('node:path')

const { Failure } = require('./failure.js')
const { notNode, readManifest } = require('./program.js')

/**
 * The conditions of "exports" that hold here, as for a program that imports the
 * package; where they lead nowhere, those of one that requires it.
 */
const IMPORTING = new Set(['node-addons', 'node', 'import', 'module-sync', 'default'])
const REQUIRING = new Set(['node-addons', 'node', 'require', 'module-sync', 'default'])

/** The files that are looked for where package.json names none, in this order. */
const CANDIDATES = [
  'index.js', 'index.mjs', 'index.cjs', 'index.ts', 'index.mts', 'index.cts',
  'function.js', 'function.mjs', 'function.cjs', 'function.ts', 'function.mts', 'function.cts',
]

/** What Node's own resolution adds to a "main" that names no file. */
const MAIN_SUFFIXES = ['', '.js', '.json', '.node', '/index.js', '/index.json', '/index.node']

/**
 * Looks at what an activation names.
 *
 * @param {string} entry absolute path of the bundle's folder, or of a file
 * @returns {{file: string | undefined, folder: string, manifest: object | undefined}}
 *   file: entry, if it is one; manifest: the package.json of the folder
 * @throws {Failure} ModuleNotFound, SyntaxError
 */
function lookAt(entry) {
  const stat = fs.statSync(entry, { throwIfNoEntry: false })
  if (stat === undefined) throw new Failure('ModuleNotFound', `there is no ${entry}`)
  const isFolder = stat.isDirectory()
  const folder = isFolder ? entry : path.dirname(entry)
  return { file: isFolder ? undefined : entry, folder, manifest: readManifest(folder) }
}

/**
 * Finds the file to load.
 *
 * @param {{file: string | undefined, folder: string, manifest: object | undefined}} what
 *   as lookAt gives it
 * @returns {{file: string, folder: string, module: boolean}} module: whether it
 *   is an ES module by its name or its package.json
 * @throws {Failure} ModuleNotFound, NoHandler
 */
function findEntry({ file, folder, manifest }) {
  file ??= fileOf(folder, manifest)
  return { file, folder, module: isModule(file, folder, manifest) }
}

/** The bundle's folder that an entry is, or is in. */
const folderOf = (entry) => (fs.statSync(entry, { throwIfNoEntry: false })?.isDirectory() === false ? path.dirname(entry) : entry)

function fileOf(folder, manifest) {
  const exports = manifest?.exports
  const target = exports === undefined ? undefined : exported(exports, IMPORTING) ?? exported(exports, REQUIRING)
  if (typeof target === 'string') {
    const file = path.resolve(folder, target)
    if (!target.startsWith('./') || !file.startsWith(folder + path.sep)) {
      throw new Failure('ModuleNotFound', `package.json exports "${target}", which is not a path below it that begins with ./`)
    }
    if (!isFile(file)) throw new Failure('ModuleNotFound', `package.json exports "${target}", which the bundle does not have`)
    return file
  }
  if (typeof manifest?.main === 'string' && manifest.main !== '') {
    for (const suffix of MAIN_SUFFIXES) {
      const file = path.resolve(folder, manifest.main) + suffix
      if (isFile(file)) return file
    }
    throw new Failure('ModuleNotFound', `package.json names main "${manifest.main}", which the bundle does not have`)
  }
  for (const name of CANDIDATES) {
    const file = path.join(folder, name)
    if (isFile(file)) return file
  }
  const lacks = `neither "exports" nor "main" in package.json, nor any of ${CANDIDATES.join(', ')}`
  if (typeof manifest?.scripts?.start === 'string') {
    throw new Failure('NoHandler', `${notNode(manifest.scripts.start)}; nor has the bundle another entry: ${lacks}`)
  }
  throw new Failure('ModuleNotFound', `the bundle has no entry: ${lacks}`)
}

// The target of "." in "exports", by Node's rules: Modules: Packages, "Package
// entry points" and "Conditional exports". Undefined or null if there is none.
function exported(target, conditions) {
  if (typeof target === 'string' || target === null) return target
  if (Array.isArray(target)) {
    for (const one of target) {
      const found = exported(one, conditions)
      if (typeof found === 'string') return found
    }
    return undefined
  }
  if (typeof target !== 'object') return undefined
  for (const [key, value] of Object.entries(target)) {
    if (key !== '.' && !conditions.has(key)) continue
    const found = exported(value, conditions)
    if (found !== undefined) return found
  }
  return undefined
}

// Of a file without a sign Node itself finds out, by its syntax.
function isModule(file, folder, manifest) {
  const extension = path.extname(file)
  if (extension === '.mjs' || extension === '.mts') return true
  return path.dirname(file) === folder && manifest?.type === 'module' && (extension === '.js' || extension === '.ts')
}

const isFile = (file) => fs.statSync(file, { throwIfNoEntry: false })?.isFile() === true

module.exports = { findEntry, folderOf, lookAt, CANDIDATES }
