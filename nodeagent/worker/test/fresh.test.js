'use strict'

// What a function finds is what a freshly started Node.js has: nothing of the
// warm-up shows. What does show is listed here, and in the documents.

const assert = require('node:assert/strict')
const { spawnSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const test = require('node:test')

const { DEFAULT_CALLS } = require('../feedback.js')
const { serving, bundle } = require('./container.js')

const LOOK = fs.readFileSync(path.join(__dirname, 'fresh', 'look.js'), 'utf8')
/** What `look` is when the module loads, in a program and in a function. */
const both = (look) => ({
  'look.js': LOOK,
  'index.js': `const look = require('./look.js'); const seen = ${look}
    module.exports = (req, res) => res.json(seen)
    if (require.main === module) require('fs').writeSync(1, JSON.stringify(seen))`,
})

/** What a function and a program see, with the texts they write to stderr. */
async function compare(t, look, { env = {} } = {}) {
  const tmp = bundle(t, {})
  const warm = bundle(t, {})
  env = { GREETING: 'hi', TZ: 'Asia/Tokyo', TMPDIR: tmp, ...env }
  const container = await serving(t, both(look), { env, boot: { TMPDIR: warm } })
  const ours = (await container.request({})).json
  const { stdout, stderr } = spawnSync(process.execPath, [path.join(container.entry, 'index.js')], { env, cwd: container.entry, encoding: 'utf8', maxBuffer: 1 << 27 })
  assert.deepEqual(fs.readdirSync(warm), [], 'the warm-up leaves files')
  return { ours, fresh: JSON.parse(stdout), log: container.log.replaceAll(/node:\d+/g, 'node'), stderr: stderr.replaceAll(/node:\d+/g, 'node') }
}

test('the state of the process', async (t) => {
  const { ours, fresh, log } = await compare(t, 'look.state(module)')
  const { main, requireMain, ...shared } = fresh
  assert.equal(main, requireMain)
  assert.deepEqual(ours, {
    ...shared,
    title: 'node',
    handles: ['Server'],
    resources: ['TCPServerWrap'],
    hooks: 'in a callback',
  })
  assert.equal(log, '')
})

test('everything that can be reached from the globals and from Node’s modules', async (t) => {
  const { ours, fresh } = await compare(t, 'look.world()')
  assert.ok(Object.keys(fresh).length > 10_000)
  const different = [...new Set([...Object.keys(ours), ...Object.keys(fresh)])].filter((name) => ours[name] !== fresh[name])
  const listed = ['.addTrailers', '._addHeaderLines', '.appendHeader', '.detachSocket', '.setHeader', '.writeHead', '.writeHeader', '.writeInformation', 'globalThis.fetch', 'globalThis.Request', 'globalThis.Response', 'globalThis.Response.json']
  const unlisted = different.filter((name) => {
    const of = name.replace(/(\.prototype)?\.constructor$/, '')
    return !listed.some((one) => (one.startsWith('.') ? of.endsWith(one) : of === one))
  })
  assert.deepEqual(unlisted.map((name) => [name, ours[name], fresh[name]]), [])
  // And these are told apart by nothing but their source.
  for (const name of different) assert.equal(ours[name]?.replaceAll(/[0-9a-f]{8}/g, ''), fresh[name]?.replaceAll(/[0-9a-f]{8}/g, ''), name)
})

test('what Node warns of once has not been warned of yet', async (t) => {
  const uses = ["require('url').parse('http://a:b@c:99999')", "require('util')._extend({}, {})", 'new Buffer(1)', "require('punycode')", "process.binding('util')", "require('fs').rmdirSync", "require('sqlite')", "require('node:sqlite')",
    "require('http').createServer()._x", 'Promise.reject(1).catch(() => {})', "require('crypto').createCipheriv", "require('zlib').bytesRead", "require('timers').enroll", "require('tls').createSecurePair", "process.assert", "require('util').isArray([])"]
  const look = `(${JSON.stringify(uses)}).map((code) => { try { return typeof eval(code) } catch (error) { return error.code } })`
  const { ours, fresh, log, stderr } = await compare(t, look)
  assert.deepEqual(ours, fresh)
  assert.notEqual(stderr, '')
  assert.equal(log.replaceAll(/\/tmp\/\S+/g, ''), stderr.replaceAll(/\/tmp\/\S+/g, ''))
})

test('V8 notes types from the same call on as it does by default', () => {
  const { stdout } = spawnSync(process.execPath, ['--v8-options'], { encoding: 'utf8' })
  const [, calls] = /default: --invocation-count-for-feedback-allocation=(\d+)/.exec(stdout)
  assert.equal(DEFAULT_CALLS, Number(calls))
})
