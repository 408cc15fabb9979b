'use strict'

// A function that does not load says why in one line, once, and its process ends.

const assert = require('node:assert/strict')
const test = require('node:test')

const { Container, bundle, LEASE, NONCE } = require('./container.js')

const CASES = {
  'syntax error': [{ 'index.js': 'const a = 1\nmodule.exports = (req, res) => { let let }\n' }, 'SyntaxError', /^index\.js:2: let is disallowed/],
  'syntax error in an ES module': [{ 'index.mjs': '\n\nexport default (req, res) => { let let }\n' }, 'SyntaxError', /^index\.mjs:3: /],
  'syntax error in an imported file': [{ 'index.mjs': 'import "node:fs"\nimport "./lib/a.js"', 'lib/a.js': 'import "./b.mjs"', 'lib/b.mjs': 'export const a = 1\nexport const a = 2' }, 'SyntaxError', /^lib\/b\.mjs:2: /],
  'syntax error in a file imported while running': [{ 'index.mjs': 'await import("./a.mjs")', 'a.mjs': '}' }, 'SyntaxError', /^Unexpected token '}'$/],
  'syntax error in TypeScript': [{ 'index.ts': 'const a: number = 1\nconst b: = 2\n' }, 'SyntaxError', /^index\.ts:2: /],
  'TypeScript that is more than types': [{ 'index.ts': 'const a: number = 1\nenum B { C }\n' }, 'SyntaxError', /^index\.ts:2: /],
  'syntax error in a required file': [{ 'index.js': 'require("./lib/a.js")', 'lib/a.js': '}' }, 'SyntaxError', /^lib\/a\.js:1: /],
  'an export that is not there': [{ 'index.mjs': 'import { no } from "./a.mjs"\nexport default no', 'a.mjs': 'export const yes = 1' }, 'SyntaxError', /^index\.mjs:1: .*'no'/],
  'JSON that is none': [{ 'index.js': 'require("./a.json")', 'a.json': '{' }, 'SyntaxError', /^a\.json: /],
  'package.json that is none': [{ 'index.js': '', 'package.json': '{' }, 'SyntaxError', /^package\.json: /],
  'missing package': [{ 'index.js': 'require("./lib/a.js")', 'lib/a.js': 'require("left-pad")' }, 'ModuleNotFound', /^cannot find module 'left-pad', imported by lib\/a\.js$/],
  'missing file': [{ 'index.js': 'require("./b")' }, 'ModuleNotFound', /^cannot find module '\.\/b', imported by index\.js$/],
  'missing package of an ES module': [{ 'index.mjs': 'import "left-pad"' }, 'ModuleNotFound', /^cannot find module 'left-pad', imported by index\.mjs$/],
  'missing file of an ES module': [{ 'index.mjs': 'import "./b.mjs"' }, 'ModuleNotFound', /^cannot find module 'b\.mjs', imported by index\.mjs$/],
  'the worker’s own dependencies are not the function’s': [{ 'index.js': 'require("express")' }, 'ModuleNotFound', /'express', imported by index\.js$/],
  'no entry': [{ 'readme.txt': '' }, 'ModuleNotFound', /no entry: .*index\.js/],
  'main that is missing': [{ 'package.json': '{"main":"no.js"}', 'index.js': '' }, 'ModuleNotFound', /main "no\.js"/],
  'nothing exported': [{ 'index.js': '' }, 'NoHandler', /^index\.js exports nothing, .*supported are: /],
  'nothing to call exported': [{ 'index.mjs': 'export const a = 1' }, 'NoHandler', /^index\.mjs exports only a, /],
  'a class exported': [{ 'index.js': 'module.exports = class A {}' }, 'NoHandler', /^index\.js exports a class/],
  'a server exported': [{ 'index.js': 'module.exports = require("http").createServer()' }, 'NoHandler', /a server .*a server that listens by itself, as the command/],
  'throw': [{ 'index.js': 'function f() {\n  throw new TypeError("thrown\\nat load")\n}\nf()' }, 'LoadError', /^TypeError: thrown \(index\.js:2\)$/],
  'throw in an ES module': [{ 'index.mjs': 'await 1\nthrow new Error("thrown")' }, 'LoadError', /^Error: thrown \(index\.mjs:2\)$/],
  'throw of running code that is a SyntaxError': [{ 'index.js': 'JSON.parse("{")' }, 'LoadError', /^SyntaxError: .* \(index\.js:1\)$/],
  'throw of no error': [{ 'index.js': 'throw null' }, 'LoadError', /^threw null$/],
  'throw of something hostile': [{ 'index.js': 'throw new Proxy({}, { get() { throw 1 }, getPrototypeOf() { throw 2 } })' }, 'LoadError', /^threw /],
  'throw outside of the load': [{ 'index.mjs': 'setTimeout(() => { throw new Error("thrown late") }); await new Promise(() => {})' }, 'LoadError', /^Error: thrown late \(index\.mjs:1\)$/],
  'rejection outside of the load': [{ 'index.mjs': 'Promise.reject(new Error("rejected")); await new Promise(() => {})' }, 'LoadError', /^Error: rejected \(index\.mjs:1\)$/],
  'exit': [{ 'index.js': 'process.exit(3)' }, 'Exited', /^process\.exit\(3\) was called/],
  'never loaded': [{ 'index.mjs': 'await new Promise(() => {})' }, 'LoadTimeout', /^index\.mjs has not finished loading within 300 ms$/],
  'loaded too late': [{ 'index.js': 'const end = Date.now() + 400; while (Date.now() < end); module.exports = () => {}' }, 'LoadTimeout', /^index\.js has not finished loading within 300 ms$/],
}

for (const [name, [files, reason, message]] of Object.entries(CASES)) {
  test(`${reason}: ${name}`, async (t) => {
    const container = await Container.start(t)
    const failed = await container.activate(t, files, { loadTimeoutMs: reason === 'LoadTimeout' ? 300 : 10_000 })
    const { code } = await container.exited
    await container.closed
    assert.equal(failed.type, 'failed', JSON.stringify(failed))
    assert.deepEqual([failed.reason, code], [reason, reason === 'Exited' ? 3 : 1])
    assert.match(failed.message, message)
    assert.doesNotMatch(failed.message, /\n/)
    assert.equal(container.messages.filter((m) => m.type === 'failed').length, 1)
    assert.ok(failed.stack.length > 0 && !failed.stack.includes(require('node:path').dirname(__dirname)), failed.stack)
    assert.notEqual(container.log, '', 'the log has no stack')
  })
}

test('a failure says no more than a message holds', async (t) => {
  const container = await Container.start(t)
  const failed = await container.activate(t, { 'index.js': 'throw new Error("\\u0001".repeat(2e6))' })
  assert.equal(failed.reason, 'LoadError')
  assert.ok(JSON.stringify(failed).length < 1 << 20, 'the agent takes a megabyte at most')
})

test('an agent that goes away ends the process at once', async (t) => {
  for (const activated of [false, true]) {
    const container = await Container.start(t)
    if (activated) await container.activate(t, { 'index.js': 'process.on("exit", () => { for (;;); }); module.exports = (req, res) => {}' })
    container.control.destroy()
    assert.deepEqual(await container.exited, { code: 0, signal: null })
  }
})

test('an agent that does not speak the protocol ends the process, saying so', async (t) => {
  for (const text of ['no json\n', '1\n', 'null\n', '{"type":"dance"}\n', 'x'.repeat((1 << 20) + 1)]) {
    const container = await Container.start(t)
    container.control.write(text)
    assert.equal((await container.exited).code, 1)
    await container.reported(/control protocol is broken/)
  }
})

test('a message of a megabyte, and one in pieces, arrive', async (t) => {
  const container = await Container.start(t)
  const entry = bundle(t, { 'index.js': 'module.exports = (req, res) => res.json(process.env.BIG.length)' })
  const line = JSON.stringify({ type: 'activate', lease: LEASE, nonce: NONCE, entry, podAddress: '', env: { BIG: 'ü'.repeat(500_000) }, loadTimeoutMs: 10_000 }) + '\n'
  container.control.write(line.slice(0, 10))
  container.control.write(line.slice(10))
  await container.receive('ready')
  assert.equal((await container.request({})).json, 500_000)
})
