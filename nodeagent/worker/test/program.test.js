'use strict'

// Contract 4: how a bundle becomes a program that listens by itself, what it
// finds, and why it may not.

const assert = require('node:assert/strict')
const test = require('node:test')

const { Container, serving } = require('./container.js')

const LISTENS = `require('node:http').createServer((req, res) => res.end(JSON.stringify({
  main: require.main === module, argv: process.argv.slice(1), execArgv: process.execArgv, cwd: process.cwd(), mode: process.env.MODE,
}))).listen(0)`

const FAILS = {
  'not node': [{ command: ['python3', 'app.py'] }, { 'app.py': '' }, 'LoadError', /\["python3","app.py"\] is none that can be run/],
  'a file that is not there': [{ command: ['node', 'none.js'] }, { 'index.js': '' }, 'ModuleNotFound', /cannot find module 'none.js'/],
  'no file': [{ command: ['node', '--enable-source-maps'] }, {}, 'LoadError', /names no file to run/],
  'a flag of the start': [{ command: ['node', '--max-old-space-size=64', 'a.js'] }, { 'a.js': LISTENS }, 'LoadError', /--max-old-space-size cannot be given .* resources.limits.memory/],
  'a flag that is none': [{ command: ['node', '--constructor', 'a.js'] }, { 'a.js': LISTENS }, 'LoadError', /--constructor cannot be given/],
  'code instead of a file': [{ command: ['node', '-e', '1'] }, {}, 'LoadError', /-e cannot be given/],
  'no package.json': [{ command: ['npm', 'start'] }, { 'index.js': '' }, 'ModuleNotFound', /there is no package.json in/],
  'no start script': [{ command: ['npm', 'start'] }, { 'package.json': '{}' }, 'NoHandler', /no start script, and there is no server.js/],
  'another start script': [{ command: ['npm', 'start'] }, { 'package.json': '{"scripts":{"start":"next start"}}' }, 'NoHandler', /start script "next start" is not of the form "node file"/],
  'a start script and no entry': [{}, { 'package.json': '{"scripts":{"start":"next start"}}' }, 'NoHandler', /"next start" is not of the form "node file".*nor has the bundle another entry/],
  'no such working folder': [{ command: ['node', 'a.js'], workingDir: '/none/such' }, { 'a.js': LISTENS }, 'LoadError', /working folder \/none\/such cannot be entered: ENOENT/],
  'it ends': [{ command: ['node', 'a.js'] }, { 'a.js': 'module.exports = (req, res) => res.end()' }, 'Exited', /^a.js, which the command \["node","a.js"\] names, ended with code 0 and had not listened on any TCP port; to have a handler that it exports called, remove the command$/],
  'it exits': [{ command: ['node', 'a.js'] }, { 'a.js': 'setTimeout(() => process.exit(3), 10)' }, 'Exited', /process.exit\(3\) was called/],
  'it does not listen in time': [{ command: ['node', 'a.js'], loadTimeoutMs: 200 }, { 'a.js': 'setInterval(() => {}, 1000)' }, 'LoadTimeout', /^a.js, which .* names, has not listened within 200 ms$/],
  'it listens on a unix socket alone': [{ command: ['node', 'a.js'], loadTimeoutMs: 300 }, { 'a.js': 'require("net").createServer().listen("\\0sanfran-test-" + process.pid)' }, 'LoadTimeout', /has not listened within/],
  'a host that there is none of': [{ command: ['node', 'a.mjs'] }, { 'a.mjs': 'import http from "http"; http.createServer().listen({ port: 0, host: "unknown.invalid" })' }, 'LoadError', /ENOTFOUND|EAI_AGAIN/],
  'it throws': [{ command: ['node', 'a.js'] }, { 'a.js': 'null.x' }, 'LoadError', /TypeError: Cannot read properties of null .*\(a.js:1\)/],
  'it throws later': [{ command: ['node', 'a.js'] }, { 'a.js': 'setImmediate(() => { throw new Error("later") })' }, 'LoadError', /Error: later \(a.js:1\)/],
  'an ES module throws': [{ command: ['node', 'a.mjs'] }, { 'a.mjs': 'await 1; throw new Error("awaited")' }, 'LoadError', /Error: awaited \(a.mjs:1\)/],
  'a syntax error': [{ command: ['node', 'a.js'] }, { 'a.js': 'let a = 1\nlet b = ;' }, 'SyntaxError', /^a.js:2: /],
  'a preload that is missing': [{ command: ['node', '-r', './none.js', 'a.js'] }, { 'a.js': LISTENS }, 'ModuleNotFound', /cannot find module '\.?\/?.*none.js'/],
}

for (const [name, [options, files, reason, message]] of Object.entries(FAILS)) {
  test(`not a program that serves: ${name}`, async (t) => {
    const container = await Container.start(t)
    const failure = await container.activate(t, files, options)
    assert.deepEqual([failure.type, failure.reason], ['failed', reason], JSON.stringify(failure))
    assert.match(failure.message, message)
    assert.notEqual((await container.exited).code, null)
  })
}

const BY = {
  'a command': [{ command: ['node', 'server.js', 'a', '--b'] }, { 'server.js': LISTENS }, { argv: ['server.js', 'a', '--b'] }],
  'a command with a path and flags': [
    { command: ['/usr/local/bin/node', '--enable-source-maps', '-r', './before.js', '--env-file=.env', '--', 'server', 'a'] },
    { 'server.js': LISTENS, 'before.js': 'process.env.BEFORE = 1', '.env': 'MODE=filed' },
    { argv: ['server', 'a'], execArgv: ['--enable-source-maps', '-r', './before.js', '--env-file=.env'], mode: 'filed' },
  ],
  'a folder': [{ command: ['node', '.'] }, { 'package.json': '{"main":"lib/main"}', 'lib/main.js': LISTENS }, { argv: [''] }],
  'TypeScript': [{ command: ['node', 'server.ts'] }, { 'server.ts': `${LISTENS} as unknown` }, { argv: ['server.ts'] }],
  'npm start': [{ command: ['npm', 'start'] }, { 'package.json': '{"scripts":{"start":"MODE=production node ./server.js \'an argument\'"}}', 'server.js': LISTENS }, { argv: ['server.js', 'an argument'], mode: 'production' }],
  'npm run start with arguments': [{ command: ['npm', 'run', 'start', '--', '--more'] }, { 'package.json': '{"scripts":{"start":"node server.js"}}', 'server.js': LISTENS }, { argv: ['server.js', '--more'] }],
  'npm start without a script': [{ command: ['npm', 'start'] }, { 'package.json': '{}', 'server.js': LISTENS }, { argv: ['server.js'] }],
  'yarn start': [{ command: ['yarn', 'start'] }, { 'package.json': '{"scripts":{"start":"node server.js"}}', 'server.js': LISTENS }, { argv: ['server.js'] }],
  'a start script, before other entries': [{}, { 'package.json': '{"main":"index.js","scripts":{"start":"node server.js"}}', 'server.js': LISTENS, 'index.js': 'throw 1' }, { argv: ['server.js'] }],
  'listening while it loads': [{}, { 'index.js': `${LISTENS}; module.exports = () => {}` }, { argv: ['index.js'], main: false }],
  'listening after it has loaded': [{}, { 'index.js': `setTimeout(() => ${LISTENS}, 20)` }, { argv: ['index.js'], main: false }],
  'another start script and an entry': [{}, { 'package.json': '{"scripts":{"start":"next start"}}', 'index.js': LISTENS }, { argv: ['index.js'], main: false }],
}

for (const [name, [options, files, expected]] of Object.entries(BY)) {
  test(`a program by ${name}`, async (t) => {
    const container = await serving(t, files, options)
    assert.equal(container.messages.find((m) => m.type === 'ready').kind, 'server')
    const { main, argv, execArgv, cwd, mode } = (await container.request({})).json
    assert.deepEqual([cwd, main, mode], [container.entry, expected.main ?? true, expected.mode])
    assert.deepEqual(execArgv, expected.execArgv ?? [])
    assert.deepEqual(argv, [`${container.entry}/${expected.argv[0]}`.replace(/\/$/, ''), ...expected.argv.slice(1)])
  })
}

test('an ES module is the main one, also with modules imported before it', async (t) => {
  const container = await serving(t, {
    'package.json': '{"type":"module"}',
    'before.js': 'globalThis.before = import.meta.main',
    'server.js': `import http from 'node:http'
      await new Promise((resolve) => setTimeout(resolve, 5))
      http.createServer((req, res) => res.end(JSON.stringify([import.meta.main, before, process.argv.length]))).listen(0)`,
  }, { command: ['node', '--import', './before.js', 'server.js'] })
  assert.deepEqual((await container.request({})).json, [true, false, 2])
})

test('handlers stay handlers', async (t) => {
  const bundles = {
    'no listen': { 'index.js': 'module.exports = (req, res) => res.send("handler")' },
    'a start script that ends without having listened': { 'package.json': '{"scripts":{"start":"node index.js"}}', 'index.js': 'module.exports = (req, res) => res.send("handler")' },
    'a listen of the main module alone': { 'index.js': 'module.exports = (req, res) => res.send("handler"); if (require.main === module) require("http").createServer().listen(0)' },
    'a server that listens later': { 'index.js': 'module.exports = (req, res) => require("http").createServer((req, res) => res.end("other")).listen(0, () => res.send("handler"))' },
  }
  for (const [name, files] of Object.entries(bundles)) {
    const container = await serving(t, files)
    assert.equal(container.messages.find((m) => m.type === 'ready').kind, 'handler', name)
    for (let i = 0; i < 2; i++) assert.equal((await container.request({})).text, 'handler', name)
  }
})

test('an entry that listens while it loads and exports a handler says that it is not called', async (t) => {
  const listens = 'require("http").createServer((req, res) => res.end("server")).listen(0);'
  const imported = 'import http from "http"; http.createServer((req, res) => res.end("server")).listen(0);'
  const bundles = {
    'a function': [true, { 'index.js': `${listens} module.exports = (req, res) => res.send("handler")` }],
    'functions by name': [true, { 'index.mjs': `${imported} export const a = (req, res) => res.send("handler")` }],
    'fetch': [true, { 'index.mjs': `${imported} export default { fetch: () => new Response("handler") }` }],
    'what tests of a server import': [false, { 'index.js': `${listens} exports.start = () => {}; exports.port = 1` }],
    'an application': [false, { 'index.js': `const app = require(${JSON.stringify(require.resolve('express'))})(); app.use((req, res) => res.send("server")); app.listen(0); module.exports = app` }],
    'what throws when it is looked at': [false, { 'index.js': `${listens} module.exports = { get a() { throw new Error('looked at') } }` }],
    'nothing': [false, { 'index.js': listens }],
  }
  for (const [name, [told, files]] of Object.entries(bundles)) {
    const container = await serving(t, files)
    assert.equal((await container.request({})).text, 'server', name)
    const line = `${Object.keys(files)[0]} began to listen while it was loading, so that it is a server, and the handler that it exports is not called: listen after it has loaded, or not at all\n`
    if (told) await container.logged(/is not called/)
    assert.equal(container.log, told ? line : '', name)
  }
})

test('a working folder of the pod’s', async (t) => {
  const files = { 'index.js': 'module.exports = (req, res) => res.send(process.cwd())', 'server.js': LISTENS }
  const handler = await serving(t, files, { workingDir: '/usr' })
  assert.equal((await handler.request({})).text, '/usr')
  const container = await Container.start(t)
  const failure = await container.activate(t, files, { workingDir: '/usr', command: ['node', 'server.js'] })
  assert.deepEqual([failure.reason, failure.message], ['ModuleNotFound', "cannot find module 'server.js'"])
})
