'use strict'

// Contract 5: which file of a bundle is loaded, and what may be in it.

const assert = require('node:assert/strict')
const { execFileSync } = require('node:child_process')
const fs = require('node:fs')
const { createRequire } = require('node:module')
const path = require('node:path')
const test = require('node:test')

const { Container, serving, bundle } = require('./container.js')

const names = (text) => `module.exports = (req, res) => res.send(${JSON.stringify(text)})`
const esm = (text) => `export default (req, res) => res.send(${JSON.stringify(text)})`
const manifest = (fields) => JSON.stringify(fields)

// [files, which of them answers]
const ENTRIES = {
  'exports before main before index': [{ 'package.json': manifest({ exports: './e.js', main: 'm.js' }), 'e.js': names('e'), 'm.js': names('m'), 'index.js': names('i') }, 'e'],
  'exports with "."': [{ 'package.json': manifest({ exports: { './sub': './s.js', '.': './e.js' } }), 'e.js': names('e'), 's.js': names('s') }, 'e'],
  'exports without "."': [{ 'package.json': manifest({ exports: { './sub': './s.js' }, main: 'm.js' }), 's.js': names('s'), 'm.js': names('m') }, 'm'],
  'exports with conditions: the first that holds': [{ 'package.json': manifest({ exports: { browser: './b.js', import: './i.mjs', require: './r.cjs' } }), 'b.js': names('b'), 'i.mjs': esm('i'), 'r.cjs': names('r') }, 'i'],
  'exports with nested conditions': [{ 'package.json': manifest({ exports: { '.': [{ types: './t.d.ts' }, { node: { development: './d.js', default: './n.js' } }] } }), 'd.js': names('d'), 'n.js': names('n') }, 'n'],
  'exports for require alone': [{ 'package.json': manifest({ exports: { '.': { require: './r.cjs' } } }), 'r.cjs': names('r') }, 'r'],
  'exports of null': [{ 'package.json': manifest({ exports: { '.': null }, main: 'm' }), 'm.js': names('m') }, 'm'],
  'main without suffix': [{ 'package.json': manifest({ main: './lib' }), 'lib/index.js': names('lib'), 'index.js': names('i') }, 'lib'],
  'main in TypeScript': [{ 'package.json': manifest({ main: 'src/main.ts', type: 'module' }), 'src/main.ts': 'export default (req: any, res: any) => res.send("ts" as string)' }, 'ts'],
  'an empty main': [{ 'package.json': manifest({ main: '' }), 'index.cjs': names('cjs'), 'index.ts': names('ts') }, 'cjs'],
  'index.mjs before index.cjs': [{ 'index.mjs': esm('mjs'), 'index.cjs': names('cjs') }, 'mjs'],
  'index.cjs before index.ts': [{ 'index.ts': names('ts'), 'index.cjs': names('cjs') }, 'cjs'],
  'index.ts before function.js': [{ 'function.js': names('f'), 'index.ts': 'module.exports = (req: any, res: any) => res.send("ts")' }, 'ts'],
  'index.mts': [{ 'index.mts': 'export default (req: any, res: any) => res.send("mts")' }, 'mts'],
  'index.cts': [{ 'index.cts': 'module.exports = (req: any, res: any) => res.send("cts")' }, 'cts'],
  'function.mjs': [{ 'function.mjs': esm('f'), 'function.ts': names('ts') }, 'f'],
  'a folder named index.js is none': [{ 'index.js/x': '', 'function.js': names('f') }, 'f'],
  'type commonjs': [{ 'package.json': manifest({ type: 'commonjs' }), 'index.js': names('cjs') }, 'cjs'],
}

for (const [name, [files, answer]] of Object.entries(ENTRIES)) {
  test(`entry: ${name}`, async (t) => {
    const container = await serving(t, files)
    assert.equal((await container.request({})).text, answer)
  })
}

test('"exports" are resolved as Node.js resolves a package’s own name', async (t) => {
  const { findEntry, lookAt } = require('../entry.js')
  const targets = ['./a.js', { import: './a.js', default: './b.js' }, { default: './b.js', import: './a.js' }, { '.': { node: './b.js' } }, [{ none: './a.js' }, './b.js'], { node: { none: './a.js' }, default: './b.js' },
    { 'node-addons': './a.js', default: './b.js' }, { 'module-sync': './a.js', default: './b.js' }, { '.': [null, './b.js'] }]
  for (const exports of targets) {
    const folder = bundle(t, { 'package.json': manifest({ name: 'self', exports }), 'a.js': '', 'b.js': '', 'ask.mjs': 'console.log(import.meta.resolve("self"))' })
    const { fileURLToPath } = require('node:url')
    const expected = fileURLToPath(execFileSync(process.execPath, [path.join(folder, 'ask.mjs')], { encoding: 'utf8' }).trim())
    assert.equal(findEntry(lookAt(folder)).file, expected, JSON.stringify(exports))
  }
  const required = bundle(t, { 'package.json': manifest({ name: 'self', exports: { require: './b.js' } }), 'b.js': '' })
  assert.equal(findEntry(lookAt(required)).file, createRequire(path.join(required, 'x.js')).resolve('self'))
})

// What a module may contain; each answers "ok".
const CONTENTS = {
  'a package of node_modules, by require': { 'index.js': 'const { text } = require("dep"); module.exports = (req, res) => res.send(text)', 'node_modules/dep/package.json': manifest({ main: 'm.js' }), 'node_modules/dep/m.js': 'exports.text = "ok"' },
  'a package of node_modules, by import of a condition': { 'index.mjs': 'import { text } from "dep/sub"; export default (req, res) => res.send(text)', 'node_modules/dep/package.json': manifest({ exports: { './sub': { import: './i.mjs', require: './r.js' } } }), 'node_modules/dep/i.mjs': 'export const text = "ok"' },
  'imports of package.json': { 'package.json': manifest({ imports: { '#own': './own.js' } }), 'own.js': 'exports.text = "ok"', 'index.js': 'module.exports = (req, res) => res.send(require("#own").text)' },
  'import of CommonJS, default and named': { 'index.mjs': 'import all, { text } from "./c.cjs"; export default (req, res) => res.send(all.text === text ? text : "no")', 'c.cjs': 'exports.text = "ok"' },
  'require of an ES module': { 'index.js': 'const { text } = require("./e.mjs"); module.exports = (req, res) => res.send(text)', 'e.mjs': 'export const text = "ok"' },
  'require of a default export': { 'index.js': 'module.exports = require("./e.mjs")', 'e.mjs': 'export default (req, res) => res.send("ok")' },
  'export as module.exports': { 'package.json': manifest({ type: 'module' }), 'main.cjs': 'module.exports = require("./e.js")', 'e.js': 'const fn = (req, res) => res.send("ok"); export { fn as "module.exports" }', 'index.js': 'export { default } from "./main.cjs"' },
  'dynamic import': { 'index.js': 'module.exports = async (req, res) => res.send((await import("./e.mjs")).text)', 'e.mjs': 'export const text = "ok"' },
  'JSON, required and imported': { 'index.mjs': 'import data from "./d.json" with { type: "json" }; import { createRequire } from "node:module"; export default (req, res) => res.send(createRequire(import.meta.url)("./d.json").text + data.text)', 'd.json': '{"text":"o"}', 'package.json': '{}' },
  'import.meta': { 'index.mjs': 'import { readFileSync } from "node:fs"; export default (req, res) => res.send(import.meta.dirname + "/index.mjs" === import.meta.filename && readFileSync(new URL("./t.txt", import.meta.url), "utf8"))', 't.txt': 'ok' },
  '__dirname and relative files': { 'index.js': 'const fs = require("fs"); module.exports = (req, res) => res.send(fs.readFileSync("t.txt", "utf8") + fs.readFileSync(__dirname + "/t.txt", "utf8"))', 't.txt': 'o' },
  'top-level await in a dependency': { 'index.mjs': 'import { text } from "./e.mjs"; export default (req, res) => res.send(text)', 'e.mjs': 'export const text = await Promise.resolve("ok")' },
  'TypeScript that imports TypeScript': { 'index.ts': 'import type { T } from "./t.ts"; import { text } from "./t.ts"; const t: T = text; export default (req: unknown, res: { send(t: T): void }): void => res.send(t satisfies string)', 't.ts': 'export type T = string; export const text: T = "ok"; export interface Empty {}' },
  'TypeScript that requires TypeScript': { 'index.cts': 'const { text }: { text: string } = require("./t.ts"); module.exports = (req: any, res: any) => res.send(text!)', 't.ts': 'exports.text = "ok" as const' },
  'TypeScript beside a tsconfig.json': { 'index.ts': 'abstract class A<T> { protected v!: T; declare w: T; get(): T { return this.v } } class B extends A<string> { override v = "ok" } export default (req: any, res: any) => res.send(new B().get())', 'tsconfig.json': '{"compilerOptions":{"paths":{"@/*":["./*"]}}}' },
  'TypeScript of the web standard': { 'index.ts': 'export default { async fetch(request: Request): Promise<Response> { return new Response("ok") } }' },
  'compiled by TypeScript to CommonJS': { 'index.js': '"use strict"; Object.defineProperty(exports, "__esModule", { value: true }); exports.other = 1; exports.default = handler; function handler(req, res) { res.send("ok") }' },
  'compiled by TypeScript, of the web standard': { 'index.js': 'Object.defineProperty(exports, "__esModule", { value: true }); exports.default = { fetch: () => new Response("ok") }' },
  'a hashbang': { 'index.js': `#!/usr/bin/env node\n${names('ok')}` },
  'a byte order mark': { 'index.js': `\ufeff${names('ok')}` },
  'exports assigned later': { 'index.mjs': 'let fn; export { fn as default }; await 1; fn = (req, res) => res.send("ok")' },
}

for (const [name, files] of Object.entries(CONTENTS)) {
  test(`modules: ${name}`, async (t) => {
    const container = await serving(t, files)
    assert.equal((await container.request({})).text, name.startsWith('JSON') || name.startsWith('__') ? 'oo' : 'ok')
    assert.equal(container.log, '')
  })
}

test('a native addon, required and imported', async (t) => {
  const folder = bundle(t, {})
  execFileSync('gcc', ['-shared', '-fPIC', '-o', path.join(folder, 'addon.node'), path.join(__dirname, 'addon.c')])
  const addon = fs.readFileSync(path.join(folder, 'addon.node'))
  const files = {
    'index.js': 'const { answer } = require("dep"); module.exports = (req, res) => res.json([answer(), require("./own.node").answer()])',
    'own.node': addon, 'node_modules/dep/addon.node': addon, 'node_modules/dep/package.json': manifest({ main: 'addon' }),
  }
  assert.deepEqual((await (await serving(t, files)).request({})).json, [42, 42])
  const main = await serving(t, { 'package.json': manifest({ main: 'main' }), 'main.node': addon })
  assert.equal((await main.request({ path: '/none' })).status, 404, 'its exports are functions by name')
})

const FAILURES = {
  'exports that are missing': [{ 'package.json': manifest({ exports: './no.js' }), 'index.js': names('i') }, 'ModuleNotFound', /^package\.json exports "\.\/no\.js", which the bundle does not have$/],
  'exports outside of the bundle': [{ 'package.json': manifest({ exports: './../x.js' }) }, 'ModuleNotFound', /not a path below it/],
  'exports without ./': [{ 'package.json': manifest({ exports: 'index.js' }), 'index.js': names('i') }, 'ModuleNotFound', /begins with \.\//],
  'an enum': [{ 'index.ts': 'enum A { B }\nexport default A' }, 'SyntaxError', /^index\.ts:1: .*enum.*; of TypeScript only types that can be erased/],
  'a parameter property': [{ 'index.ts': 'class A {\n  constructor(private x: number) {}\n}' }, 'SyntaxError', /^index\.ts:2: .*only types that can be erased/],
  'a namespace, imported': [{ 'index.mjs': 'import "./n.ts"', 'n.ts': 'namespace N { export const x = 1 }' }, 'SyntaxError', /n\.ts:1: .*only types that can be erased/],
  'paths of tsconfig.json': [{ 'index.ts': 'import { a } from "@/a"\nexport default a', 'tsconfig.json': '{"compilerOptions":{"paths":{"@/*":["./*"]}}}', 'a.ts': 'export const a = 1' }, 'ModuleNotFound', /^cannot find module '@\/a', imported by index\.ts$/],
  'TypeScript in node_modules': [{ 'index.mjs': 'import "dep"', 'node_modules/dep/package.json': manifest({ main: 'i.ts' }), 'node_modules/dep/i.ts': 'export const a: number = 1' }, 'LoadError', /Stripping types is currently unsupported for files under node_modules/],
  'JSX': [{ 'package.json': manifest({ main: 'index.tsx', type: 'module' }), 'index.tsx': 'export default () => <p/>' }, 'SyntaxError', /^index\.tsx:1: /],
  'JSON imported without its type': [{ 'index.mjs': 'import "./d.json"', 'd.json': '{}' }, 'LoadError', /needs an import attribute of "?type: json/],
}

for (const [name, [files, reason, message]] of Object.entries(FAILURES)) {
  test(`${reason}: ${name}`, async (t) => {
    const container = await Container.start(t)
    const failed = await container.activate(t, files)
    assert.equal(failed.reason, reason, JSON.stringify(failed))
    assert.match(failed.message, message)
  })
}
