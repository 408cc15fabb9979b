'use strict'

// What the agent hears of the event loop.

const assert = require('node:assert/strict')
const fs = require('node:fs')
const net = require('node:net')
const test = require('node:test')
const { setTimeout: passes } = require('node:timers/promises')

const { serving, LEASE, NODE_ADDRESS } = require('./container.js')

const BLOCK = 'const block = (ms) => { const end = Date.now() + ms; while (Date.now() < end); }\n'

test('a call that blocks the event loop is told as its delay', async (t) => {
  const container = await serving(t, { 'index.js': BLOCK + 'module.exports = (req, res) => { block(400); res.end() }' })
  await container.request({})
  const { delayMs } = await container.receive('activity', { where: (m) => m.delayMs !== undefined })
  assert.ok(delayMs >= 300 && Number.isInteger(delayMs), `${delayMs}`)
  const from = container.messages.length
  container.send({ type: 'ping' })
  assert.deepEqual(await container.receive('activity', { from }), { type: 'activity', inFlight: 0, direct: 0, came: 1 }, 'told twice')
})

test('a ping is answered when the event loop comes round', async (t) => {
  const container = await serving(t, { 'index.js': BLOCK + 'module.exports = (req, res) => { if (req.path === "/block") block(500); else setTimeout(() => res.end(), 300) }' })
  const waiting = container.request({})
  await container.receive('activity', { where: (m) => m.inFlight === 1 })
  let from = container.messages.length
  container.send({ type: 'ping' })
  assert.equal((await container.receive('activity', { from })).inFlight, 1)
  await waiting

  from = container.messages.length
  const began = Date.now()
  container.request({ path: '/block' }).catch(() => {})
  await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
  from = container.messages.length
  container.send({ type: 'ping' })
  await container.receive('activity', { from })
  assert.ok(Date.now() - began >= 450, 'answered by a blocked event loop')
})

test('a request ends with its answer, whatever prototype the function gives its response', async (t) => {
  const functions = {
    'an Express application': `const app = module.exports = require(${JSON.stringify(require.resolve('express'))})()
      app.get("/", (req, res) => res.json(1)).post("/", (req, res) => req.on("end", () => res.json(2)).resume())`,
    "Node's own": 'module.exports = (req, res) => { Object.setPrototypeOf(res, require("http").ServerResponse.prototype); res.end("1") }',
  }
  for (const code of Object.values(functions)) {
    const container = await serving(t, { 'index.js': code })
    const socket = net.connect(container.port, NODE_ADDRESS) // as the gateway keeps one
    t.after(() => socket.destroy())
    for (const request of ['GET / HTTP/1.1\r\n', 'POST / HTTP/1.1\r\nContent-Length: 1\r\n']) {
      const from = container.messages.length
      socket.write(`${request}Host: a\r\nSanfran-Lease: ${LEASE}\r\n\r\n${request[0] === 'P' ? 'a' : ''}`)
      await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
      await container.receive('activity', { from, where: (m) => m.inFlight === 0 })
    }
    socket.destroy()
    await container.stop()
  }
})

test('many requests that each take long are progress, though the loop does not come round', async (t) => {
  const container = await serving(t, { 'index.js': BLOCK + 'module.exports = (req, res) => { block(300); res.end() }' })
  await container.request({})
  const from = container.messages.length
  // Pipelined, they are handed to the function in one round of the loop.
  const socket = net.connect(container.port, NODE_ADDRESS)
  const request = (close) => `GET / HTTP/1.1\r\nHost: a\r\nSanfran-Lease: ${LEASE}\r\n${close}\r\n`
  socket.write(request('').repeat(11) + request('Connection: close\r\n'))
  await socket.toArray()
  const late = container.messages.slice(from).filter((m) => m.delayMs >= 1000)
  assert.ok(late.length >= 2, JSON.stringify(container.messages.slice(from)))
})

test('a debugger is told', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => { require("inspector").open(0, "127.0.0.1"); res.end() }' })
  await container.request({})
  const from = container.messages.length
  container.send({ type: 'ping' })
  assert.equal((await container.receive('activity', { from, where: (m) => m.debugger })).debugger, true)
})

test('a container without a request sleeps', async (t) => {
  const container = await serving(t, { 'index.js': 'module.exports = (req, res) => res.end()' })
  await container.request({})
  await container.receive('activity', { where: (m) => m.inFlight === 0 })
  const { pid } = container.process
  const wakes = () => Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${pid}/task/${pid}/status`, 'utf8'))[1])
  // V8 collects garbage for some seconds after a boot; a timer of ours would wake it
  // in each of them.
  const counts = []
  do {
    const before = wakes()
    await passes(1000)
    counts.push(wakes() - before)
  } while (counts.at(-1) > 3 && counts.length < 10)
  assert.ok(counts.at(-1) <= 3, `in each second it woke so often: ${counts}`)
})
