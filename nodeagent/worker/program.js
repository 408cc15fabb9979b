'use strict'

// Programs: bundles that are run as `node file args` runs them, and listen by
// themselves. Which one a command or package.json's start script means, and
// running it.

const fs = require('node:fs')
const Module = require('node:module')
const path = require('node:path')
const vm = require('node:vm')

const { Failure } = require('./failure.js')

const { parse } = JSON
const runMain = Module.runMain.bind(Module)

/**
 * A program to run.
 *
 * @typedef {object} Program
 * @property {string} file absolute, as process.argv[1]: may lack its extension
 * @property {string[]} args
 * @property {string[]} flags of Node.js, before the file
 * @property {Record<string, string>} env what comes beside the pod's environment
 * @property {string} by what says so, for messages
 * @property {boolean} only whether it can be nothing but a program
 */

/**
 * The program that a pod's command is.
 *
 * @param {string[]} command with its arguments, not empty
 * @param {string} folder the working folder
 * @returns {Program}
 * @throws {Failure}
 */
function programOfCommand(command, folder) {
  const name = path.basename(command[0])
  const by = `the command ${JSON.stringify(command)}`
  if (name === 'node' || name === 'nodejs') return { ...nodeWords(command.slice(1), folder, by), env: {}, by, only: true }
  if (name === 'npm' || name === 'yarn' || name === 'pnpm') {
    let rest = command.slice(1)
    if (rest[0] === 'run' || rest[0] === 'run-script') rest = rest.slice(1)
    if (rest[0] === 'start') {
      const manifest = readManifest(folder)
      if (manifest === undefined) throw new Failure('ModuleNotFound', `${by}: there is no package.json in ${folder}`)
      rest = rest.slice(rest[1] === '--' ? 2 : 1)
      const script = manifest.scripts?.start ?? (fs.existsSync(path.join(folder, 'server.js')) ? 'node server.js' : undefined)
      if (typeof script !== 'string') throw new Failure('NoHandler', `${by}: package.json has no start script, and there is no server.js`)
      const program = programOfScript(manifest, folder, script)
      if (program === undefined) throw new Failure('NoHandler', `${by}: ${notNode(script)}`)
      return { ...program, args: [...program.args, ...rest], only: true }
    }
  }
  throw new Failure('LoadError', `${by} is none that can be run: write ["node", "server.js"], or ["npm", "start"]`)
}

/**
 * The program that package.json's start script is, undefined if it is not of the
 * form `[NAME=value …] node [flags] file [args]`, or if npm would run more than
 * this script.
 *
 * @param {object} manifest package.json
 * @param {string} folder its folder
 * @param {string} [script]
 * @returns {Program | undefined}
 */
function programOfScript(manifest, folder, script = manifest.scripts?.start) {
  if (typeof script !== 'string' || manifest.scripts?.prestart !== undefined) return undefined
  const words = wordsOf(script)
  if (words === undefined) return undefined
  const env = { npm_lifecycle_event: 'start', npm_lifecycle_script: script }
  for (const name of ['name', 'version']) {
    if (typeof manifest[name] === 'string') env[`npm_package_${name}`] = manifest[name]
  }
  let at = 0
  for (; /^[A-Za-z_][A-Za-z0-9_]*=/.test(words[at] ?? ''); at++) {
    const end = words[at].indexOf('=')
    env[words[at].slice(0, end)] = words[at].slice(end + 1)
  }
  if (words[at] !== 'node' || words.length === at + 1) return undefined
  const by = `package.json's start script "${script}"`
  return { ...nodeWords(words.slice(at + 1), folder, by), env, by, only: false }
}

/** Why a start script is not run. */
const notNode = (script) =>
  `package.json's start script "${script}" is not of the form "node file", without a prestart script; nothing else is run here`

/** The words of a shell command that asks nothing else of a shell; else undefined. */
function wordsOf(text) {
  const words = []
  const word = /\s*((?:[^\s'"\\$`|&;<>()*?#~!{}[\]]|'[^']*'|"[^"\\$`]*")+)/y
  let at = 0
  while (text.slice(at).trim() !== '') {
    word.lastIndex = at
    const found = word.exec(text)
    if (found === null) return undefined
    words.push(found[1].replace(/'([^']*)'|"([^"]*)"/g, (_, single, double) => single ?? double))
    at = word.lastIndex
  }
  return words
}

// Flags that can be given to a Node.js that runs already, and what each does;
// those in WITH_VALUE take the next word, or come as --flag=value.
const WITH_VALUE = new Set(['-r', '--require', '--import', '--env-file', '--env-file-if-exists', '--stack-trace-limit', '--title'])
const FLAGS = {
  '-r': (value, load) => load.require(value),
  '--require': (value, load) => load.require(value),
  '--import': (value, load) => load.import(value),
  '--env-file': (value) => process.loadEnvFile(value),
  '--env-file-if-exists': (value) => fs.existsSync(value) && process.loadEnvFile(value),
  '--enable-source-maps': () => process.setSourceMapsEnabled(true),
  '--stack-trace-limit': (value) => (Error.stackTraceLimit = Number(value)),
  '--title': (value) => (process.title = value),
  '--no-deprecation': () => (process.noDeprecation = true),
  '--throw-deprecation': () => (process.throwDeprecation = true),
  '--trace-deprecation': () => (process.traceDeprecation = true),
  '--experimental-strip-types': () => {}, // what Node does anyway
  '--strip-types': () => {},
}

// [flags] file [args], as after "node".
function nodeWords(words, folder, by) {
  const flags = []
  let at = 0
  for (; at < words.length && words[at].startsWith('-'); at++) {
    if (words[at] === '--') {
      at++
      break
    }
    const [, name] = /^(--?[^=]*)/.exec(words[at])
    if (!Object.hasOwn(FLAGS, name)) {
      throw new Failure('LoadError', `${by}: ${name} cannot be given to a Node.js that runs already, as that of a container does; ` +
        (name.startsWith('--max-') ? 'set resources.limits.memory of the pod instead' : `remove it (possible are ${Object.keys(FLAGS).join(', ')})`))
    }
    flags.push(words[at])
    if (WITH_VALUE.has(name) && !words[at].includes('=')) flags.push(words[++at] ?? '')
  }
  if (at >= words.length) throw new Failure('LoadError', `${by} names no file to run`)
  return { file: path.resolve(folder, words[at]), args: words.slice(at + 1), flags }
}

/**
 * Runs a program in this process, which must have its environment and working
 * folder already. Whatever its module throws later than at once, Node treats as
 * uncaught.
 *
 * @param {Program} program
 * @returns {Promise<void> | undefined} undefined when its module has run, or has
 *   begun to; a promise when modules are imported before it
 * @throws whatever its module throws at once
 */
function runProgram({ file, flags }) {
  const load = {
    require: Module.createRequire(path.join(process.cwd(), 'preload')),
    import: vm.compileFunction('return import(name)', ['name'], {
      filename: path.join(process.cwd(), 'preload'),
      importModuleDynamically: vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    }),
  }
  const imports = []
  for (let at = 0; at < flags.length; at++) {
    const [, name, , given] = /^(--?[^=]*)(=(.*))?$/s.exec(flags[at])
    const value = given ?? (WITH_VALUE.has(name) ? flags[++at] : '')
    if (name === '--import') imports.push(value)
    else FLAGS[name](value, load)
  }
  if (imports.length === 0) return void runMain(file)
  return imports.reduce((before, name) => before.then(() => load.import(name)), Promise.resolve()).then(() => runMain(file))
}

/** The package.json of a folder; undefined if there is none. */
function readManifest(folder) {
  const file = path.join(folder, 'package.json')
  // To be asked is much cheaper than to fail, and most small functions have none.
  if (fs.statSync(file, { throwIfNoEntry: false }) === undefined) return undefined
  let text
  try {
    text = fs.readFileSync(file, 'utf8')
  } catch (error) {
    throw new Failure('LoadError', `package.json cannot be read: ${error.message}`)
  }
  let manifest
  try {
    manifest = parse(text)
  } catch (error) {
    throw new Failure('SyntaxError', `package.json: ${error.message.replaceAll('\n', ' ')}`)
  }
  return manifest !== null && typeof manifest === 'object' ? manifest : {}
}

module.exports = { programOfCommand, programOfScript, notNode, readManifest, runProgram }
