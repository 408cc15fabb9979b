'use strict'

// V8's compile cache, with a plain folder in place of what the agent mounts.

const assert = require('node:assert/strict')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')
const { test } = require('node:test')

const { Container, bundle, LEASE, NONCE } = require('./container.js')

/** A folder of a cache, as the agent mounts it. */
async function folderFor(t, container) {
  const base = fs.mkdtempSync(path.join(os.tmpdir(), 'sanfran-compile-cache-'))
  t.after(() => fs.rmSync(base, { recursive: true, force: true }))
  const { compileCache } = await container.receive('warm')
  const dir = path.join(base, compileCache)
  fs.mkdirSync(dir)
  return dir
}

async function activate(container, entry, options = {}) {
  container.send({ type: 'activate', lease: LEASE, nonce: NONCE, entry, podAddress: '', env: {}, loadTimeoutMs: 20_000, ...options })
  const answer = await Promise.race([container.receive('ready'), container.receive('failed')])
  assert.equal(answer.type, 'ready', JSON.stringify(answer))
}

async function compile(container) {
  const from = container.messages.length
  container.send({ type: 'compile' })
  await container.receive('compiled', { from })
}

/** The files of a folder with their times: a written file has another. */
const state = (dir) => fs.readdirSync(dir).sort().map((name) => [name, fs.statSync(path.join(dir, name)).mtimeNs, fs.statSync(path.join(dir, name)).ino])

const MODULES = {
  'package.json': '{"main":"index.js"}',
  'index.js': `
    const dep = require('dep')
    const { typed } = require('./typed.ts')
    exports.handler = async (req, res) => {
      const { esm } = await import('./esm.mjs')
      const late = require('./late.js')
      const module = require('node:module')
      res.json({ dep, typed: typed(1), esm: esm(), late, dir: module.getCompileCacheDir(), again: module.enableCompileCache('/elsewhere'),
        env: Object.keys(process.env) })
    }`,
  'typed.ts': 'export const typed = (n: number): string => `typed ${n}`',
  'esm.mjs': 'export const esm = () => "esm"',
  'late.js': 'module.exports = "late"',
  'node_modules/dep/package.json': '{"name":"dep","exports":{".":"./lib/main.js"}}',
  'node_modules/dep/lib/main.js': 'module.exports = "dep"',
}

test('without a word of the agent there is no cache', async (t) => {
  const container = await Container.start(t)
  const { compileCache } = await container.receive('warm')
  assert.match(compileCache, new RegExp(`^${process.version}-${process.arch}-[0-9a-f]{8}-${process.getuid()}$`))
  await activate(container, bundle(t, { 'index.js': 'module.exports = (req, res) => res.json(require("node:module").getCompileCacheDir() ?? null)' }))
  assert.equal((await container.request({ path: '/' })).text, 'null')
  await compile(container)
})

test('a folder that cannot be had does no harm', async (t) => {
  const file = path.join(bundle(t, { file: '' }), 'file')
  for (const dir of [`${file}/v24`, `${file}/v24/deeper`, '\0']) {
    const container = await Container.start(t)
    await activate(container, bundle(t, MODULES), { compileCache: dir, compileCacheFilled: true })
    await compile(container)
    assert.equal((await container.request({ path: '/handler' })).json.dep, 'dep', dir)
    await container.stop()
  }
})

test('CommonJS, ES modules and TypeScript are cached, and the second activation writes nothing', async (t) => {
  const files = bundle(t, MODULES)
  const first = await Container.start(t)
  const compileCache = await folderFor(t, first)
  await activate(first, files, { compileCache })
  const { json: one } = await first.request({ path: '/handler' })
  assert.deepEqual({ ...one, again: undefined }, { dep: 'dep', typed: 'typed 1', esm: 'esm', late: 'late', dir: compileCache, again: undefined, env: [] })
  assert.equal(one.again.status, require('node:module').constants.compileCacheStatus.ALREADY_ENABLED)
  assert.deepEqual(fs.readdirSync(compileCache), [])
  await compile(first)
  await first.stop()
  const written = state(compileCache)
  const names = written.map(([name]) => name)
  // index, dep, typed (its JavaScript and its bytecode), esm, late; nothing of the worker
  assert.equal(names.filter((name) => /^[0-9a-f]{8}$/.test(name)).length, 6, String(names))
  assert.equal(names.length, 7, String(names))
  const paths = JSON.parse(fs.readFileSync(path.join(compileCache, 'paths.json')))
  assert.ok(Object.values(paths).includes(path.join(files, 'late.js')), JSON.stringify(paths))
  assert.ok(Object.values(paths).every((file) => file.startsWith(files + '/')), JSON.stringify(paths))

  const second = await Container.start(t)
  await activate(second, files, { compileCache, compileCacheFilled: true })
  assert.deepEqual((await second.request({ path: '/handler' })).json, one)
  fs.rmSync(path.join(compileCache, 'paths.json'))
  await compile(second)
  await second.stop()
  assert.deepEqual(state(compileCache).filter(([name]) => name !== 'paths.json'), written.filter(([name]) => name !== 'paths.json'))
})

test('what a module calls while it loads is cached, however it is loaded', async (t) => {
  const called = (name, type = '') => `
    function ran(n${type}) { return 'said when ${name} loaded' + n }
    function idle(n${type}) { return 'never said by ${name}' + n }
    ran(1)`
  const files = bundle(t, {
    'index.js': `require('./plain.cjs'); require('./typed.ts'); ${called('index')}
      exports.all = async (req, res) => { await import('./esm.mjs'); res.json(1) }
      exports.run = (req, res) => res.json(globalThis.runs)
      globalThis.runs = (globalThis.runs ?? 0) + 1`,
    'plain.cjs': called('plain'),
    'typed.ts': called('typed', ': number') + '; module.exports = {}',
    'esm.mjs': 'import "./imported.cjs"',
    'imported.cjs': called('imported'),
  })
  const container = await Container.start(t)
  const compileCache = await folderFor(t, container)
  await activate(container, files, { compileCache })
  await container.request({ path: '/all' })
  await compile(container)
  assert.equal((await container.request({ path: '/run' })).json, 1) // and is not run again
  const all = fs.readdirSync(compileCache).map((name) => fs.readFileSync(path.join(compileCache, name), 'latin1'))
    .filter((text) => !text.includes('//# sourceURL')).join() // without the stripped TypeScript
  for (const name of ['index', 'plain', 'typed', 'imported']) {
    assert.ok(all.includes(`said when ${name} loaded`), name)
    assert.ok(!all.includes(`never said by ${name}`), name)
  }
})

test('code that is transformed before it is compiled is left as it is, without a word in the log', async (t) => {
  const way = {
    'Module._extensions': `const js = Module._extensions['.js']
      Module._extensions['.js'] = (module, file) => file.endsWith('jsx.js') ? module._compile('module.exports = 1', file) : js(module, file)`,
    'registerHooks': `Module.registerHooks({ load(url, context, next) {
      return url.endsWith('jsx.js') ? { format: 'commonjs', source: 'module.exports = 1', shortCircuit: true } : next(url, context) } })`,
  }
  for (const [name, transform] of Object.entries(way)) {
    const files = bundle(t, {
      'index.js': `const Module = require('node:module'); ${transform}
        const one = require('./jsx.js'); module.exports = (req, res) => res.json(one)`,
      'jsx.js': 'import React from "react"\nexport default () => <b>1</b>',
    })
    const first = await Container.start(t)
    const compileCache = await folderFor(t, first)
    await activate(first, files, { compileCache })
    assert.equal((await first.request({ path: '/' })).json, 1, name)
    await compile(first)
    await first.stop()
    assert.equal(first.log, '', name)
    const second = await Container.start(t)
    await activate(second, files, { compileCache, compileCacheFilled: true })
    assert.equal((await second.request({ path: '/' })).json, 1, name)
    await second.stop()
  }
})

test('a hook’s source that Node.js would warn of is none to warn of', async (t) => {
  const sources = [
    'import $ from "x"', '"use strict";import a from "x"', '/* x */ import a from "x"', 'import\na from "x"',
    'let a;export{a}', 'await 1', 'console.log(import.meta.url)', 'module.exports = () => <b/>',
  ]
  const files = {
    'index.js': `const Module = require('node:module')
      Module.registerHooks({ load(url, context, next) {
        return url.includes('/hooked') ? { format: 'commonjs', source: 'module.exports = 1', shortCircuit: true } : next(url, context) } })
      for (let i = 0; i < ${sources.length}; i++) require('./hooked' + i)
      const warned = []
      process.on('warning', (warning) => warned.push(warning.message))
      if (process.env.OWN) process.emit = function emit() { return process.constructor.prototype.emit.apply(this, arguments) }
      const emit = Object.getOwnPropertyDescriptor(process, 'emit')
      module.exports = (req, res) => res.json([warned, require('node:util').isDeepStrictEqual(emit, Object.getOwnPropertyDescriptor(process, 'emit'))])`,
  }
  for (const [i, source] of sources.entries()) files[`hooked${i}.js`] = source
  const entry = bundle(t, files)
  for (const env of [{}, { OWN: '1' }]) {
    const container = await Container.start(t)
    await activate(container, entry, { compileCache: await folderFor(t, container), env })
    await compile(container)
    assert.deepEqual((await container.request({ path: '/' })).json, [[], true])
    assert.equal(container.log, '')
    await container.stop()
  }
})

test('a function that has changed what code is wrapped in does not run it again', async (t) => {
  const count = `Module.wrapper[0] = 'globalThis.runs = (globalThis.runs ?? 0) + 1; ' + Module.wrapper[0]`
  const ways = {
    'before it loads': `${count}; require('./a')`,
    // Here the cache takes so long to look at that there is one module in a slice.
    'between two slices': `require('./a'); require('./b'); globalThis.runs = 1
      let begun = false
      Module._cache = new Proxy(Module._cache, { get(cache, name) {
        if (!begun) setImmediate(() => { ${count} })
        begun = true
        for (const end = performance.now() + 10; performance.now() < end;);
        return cache[name]
      } })`,
  }
  for (const [when, way] of Object.entries(ways)) {
    const container = await Container.start(t)
    const files = { 'index.js': `const Module = require('node:module'); ${way}\n module.exports = (req, res) => res.json(globalThis.runs)`, 'a.js': '', 'b.js': '' }
    await activate(container, bundle(t, files), { compileCache: await folderFor(t, container) })
    await compile(container)
    assert.equal((await container.request({ path: '/' })).json, 1, when)
    await container.stop()
  }
})

test('a function keeps its source maps', async (t) => {
  const map = JSON.stringify({ version: 3, sources: ['made-of.ts'], names: [], mappings: 'AAAA' })
  const files = bundle(t, {
    'made.js': `exports.fail = () => new Error('x')\n//# sourceMappingURL=data:application/json;base64,${Buffer.from(map).toString('base64')}`,
    'index.js': `if (process.env.NODE_V8_COVERAGE === undefined) process.setSourceMapsEnabled(true)
      const { fail } = require('./made.js')
      require('node:v8').setFlagsFromString('--expose-gc')
      const gc = require('node:vm').runInNewContext('gc')
      module.exports = async (req, res) => {
        for (let i = 0; i < 3; i++) await new Promise((resolve) => setImmediate(resolve, gc()))
        res.json({ stack: fail().stack, sources: require('node:module').findSourceMap(require.resolve('./made.js'))?.payload.sources })
      }`,
  })
  for (const env of [{}, { NODE_V8_COVERAGE: '/nowhere' }]) {
    const container = await Container.start(t)
    await activate(container, files, { compileCache: await folderFor(t, container), env })
    for (const when of ['before', 'after']) {
      const { stack, sources } = (await container.request({ path: '/' })).json
      assert.match(sources?.[0] ?? '', /made-of\.ts$/, when)
      if (env.NODE_V8_COVERAGE === undefined) assert.match(stack, /made-of\.ts:1:/, when)
      await compile(container)
    }
    await container.stop()
  }
})

test('a file of many blank lines takes no time', async (t) => {
  const container = await Container.start(t)
  await activate(container, bundle(t, { 'index.js': `module.exports = (req, res) => res.end('ok')${'\n'.repeat(1e6)}//` }), { compileCache: await folderFor(t, container) })
  await compile(container)
  assert.equal((await container.request({ path: '/' })).text, 'ok')
})

test('a require that was recalled finds what Node would have found', async (t) => {
  const files = bundle(t, {
    'index.js': 'exports.all = (req, res) => res.json([require("./a"), require("./lib"), require("pkg"), require("pkg/sub"), require("#own"), require("./data")])',
    'package.json': '{"imports":{"#own":"./own.js"}}',
    'own.js': 'module.exports = "own"', 'a.js': 'module.exports = "a"', 'a/index.js': 'module.exports = "not a"', 'lib/index.js': 'module.exports = require("./inner") + require("pkg")',
    'lib/inner.js': 'module.exports = "inner"', 'data.json': '"data"',
    'node_modules/pkg/package.json': '{"exports":{".":{"require":"./r.js","import":"./i.js"},"./sub":"./s.js"}}',
    'node_modules/pkg/r.js': 'module.exports = "outer"', 'node_modules/pkg/s.js': 'module.exports = "sub"', 'lib/node_modules/pkg/index.js': 'module.exports = "nested"',
  })
  const want = ['a', 'innernested', 'outer', 'sub', 'own', 'data']
  let compileCache
  for (const compileCacheFilled of [false, true]) {
    const container = await Container.start(t)
    compileCache ??= await folderFor(t, container)
    await activate(container, files, { compileCache, compileCacheFilled })
    assert.deepEqual((await container.request({ path: '/all' })).json, want)
    await compile(container)
    await container.stop()
  }
})

test('a cache of rubbish harms nobody', async (t) => {
  const files = bundle(t, MODULES)
  const first = await Container.start(t)
  const dir = await folderFor(t, first)
  await activate(first, files, { compileCache: dir })
  const { json: want } = await first.request({ path: '/handler' })
  await compile(first)
  await first.stop()
  const names = fs.readdirSync(dir)
  const rubbish = {
    truncated: (data) => data.subarray(0, data.length >> 1),
    empty: () => Buffer.alloc(0),
    flipped: (data) => Buffer.from(data).fill(0xff, data.length >> 1, (data.length >> 1) + 8),
    'not an object': () => Buffer.from('null'),
    'wrong values': () => Buffer.from('{"./late.js":1,"__proto__":{"a":1}}'),
  }
  const good = Object.fromEntries(names.map((name) => [name, fs.readFileSync(path.join(dir, name))]))
  for (const [what, spoil] of Object.entries(rubbish)) {
    for (const name of names) fs.writeFileSync(path.join(dir, name), spoil(good[name]))
    const container = await Container.start(t)
    await activate(container, files, { compileCache: dir, compileCacheFilled: true })
    assert.deepEqual((await container.request({ path: '/handler' })).json, want, what)
    await container.stop()
  }
})

test('a function that has been at everything it can reach does not break the protocol', async (t) => {
  const container = await Container.start(t)
  const compileCache = await folderFor(t, container)
  await activate(container, bundle(t, {
    'index.js': `
      const Module = require('node:module'), fs = require('node:fs')
      module.exports = (req, res) => {
        res.end('ok')
        Module.flushCompileCache = fs.writeFileSync = fs.statSync = Object.keys = () => { throw new Error('not you') }
        Module._pathCache.hostile = { toString() { throw new Error('no string') } }
      }`,
  }), { compileCache })
  assert.equal((await container.request({ path: '/' })).text, 'ok')
  await compile(container)
  assert.equal((await container.request({ path: '/' })).text, 'ok')
})
