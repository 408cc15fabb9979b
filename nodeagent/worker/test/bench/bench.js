'use strict'

// Measures the worker: `npm run bench`. Activation and first answer over many
// containers; then throughput of a warm function beside a bare http server and
// Express, in turns, on the same connections.

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')

const { Container, LEASE, NODE_ADDRESS } = require('../container.js')

const ACTIVATIONS = Number(process.env.ACTIVATIONS ?? 20)
const SECONDS = Number(process.env.SECONDS ?? 3)
const TURNS = 3
const CONNECTIONS = 16

const HELLO = { 'index.js': 'module.exports = (req, res) => res.send(`Hello ${req.query.name}`)' }
const FETCH = { 'index.mjs': 'export default { fetch: (request) => new Response(`Hello ${new URL(request.url).searchParams.get("name")}`) }' }
const HEAD = `GET /?name=world HTTP/1.1\r\nHost: bench\r\nSanfran-Lease: ${LEASE}\r\nUser-Agent: bench\r\nAccept: */*\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n`

const cleanups = []
const t = { after: (fn) => cleanups.unshift(fn) }
const ms = (a, b) => Number(b - a) / 1e6
const quantile = (list, q) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))].toFixed(2)

async function activations(files) {
  const boots = [], loads = [], readies = [], firsts = [], rss = []
  for (let i = 0; i < ACTIVATIONS; i++) {
    const start = process.hrtime.bigint()
    const container = await Container.start(t)
    boots.push(ms(start, process.hrtime.bigint()))
    const client = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
    await once(client, 'connect')
    const began = process.hrtime.bigint()
    const { loadMs } = await container.activate(t, files)
    const ready = process.hrtime.bigint()
    client.write(HEAD)
    await once(client, 'data')
    const first = process.hrtime.bigint()
    loads.push(loadMs)
    readies.push(ms(began, ready))
    firsts.push(ms(began, first))
    rss.push(Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${container.process.pid}/status`, 'utf8'))[1]) / 1024)
    client.destroy()
    await container.stop()
  }
  const show = (list) => `p50 ${quantile(list, 0.5)} p95 ${quantile(list, 0.95)}`
  console.log(`  start to warm ms ${show(boots)}; load ms ${show(loads)}; activate to ready ms ${show(readies)}; activate to first answer ms ${show(firsts)}; RSS MiB ${show(rss)}`)
}

/** CPU time of a process so far, in microseconds; a tick is 10 ms. */
function cpu(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

/**
 * How fast a server answers on a few connections kept busy: requests per second,
 * and its CPU time per request, which other work on the machine disturbs less.
 */
async function throughput({ port, pid }) {
  let answered = 0
  const sockets = Array.from({ length: CONNECTIONS }, () => {
    const socket = net.connect(port, NODE_ADDRESS)
    socket.on('data', () => {
      answered++
      socket.write(HEAD)
    })
    socket.write(HEAD)
    return socket
  })
  const began = process.hrtime.bigint()
  const used = cpu(pid)
  await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000))
  const rate = answered / ms(began, process.hrtime.bigint()) * 1000
  const cost = (cpu(pid) - used) / answered
  for (const socket of sockets) socket.destroy()
  return { rate, cost }
}

const BARE = `require('http').createServer((req, res) => {
  const body = 'Hello ' + new URLSearchParams(req.url.slice(req.url.indexOf('?'))).get('name')
  res.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8', 'Content-Length': Buffer.byteLength(body) }); res.end(body)
}).listen(0, '127.0.0.1', function () { console.log(this.address().port) })`
const EXPRESS = `const app = require(${JSON.stringify(require.resolve('express'))})(); app.disable('x-powered-by')
  app.get('/', (req, res) => res.send('Hello ' + req.query.name)).listen(0, '127.0.0.1', function () { console.log(this.address().port) })`

async function server(code) {
  const child = spawn(process.execPath, ['-e', code], { stdio: ['ignore', 'pipe', 'inherit'], env: { NODE_ENV: 'production' } })
  cleanups.unshift(() => child.kill())
  return { port: Number(String((await once(child.stdout, 'data'))[0])), pid: child.pid }
}

async function main() {
  console.log(`${ACTIVATIONS} activations of hello`)
  await activations(HELLO)
  console.log(`${ACTIVATIONS} activations of a fetch handler`)
  await activations(FETCH)

  const servers = { 'bare http': await server(BARE), Express: await server(EXPRESS) }
  for (const [name, files] of Object.entries({ 'function (req, res)': HELLO, 'function fetch': FETCH })) {
    const container = await Container.start(t)
    await container.activate(t, files)
    servers[name] = { port: container.port, pid: container.process.pid }
  }
  const results = {}
  for (let turn = 0; turn <= TURNS; turn++) {
    for (const [name, server] of Object.entries(servers)) {
      const result = await throughput(server)
      if (turn > 0) (results[name] ??= []).push(result) // the first turn warms all up
    }
  }
  const median = (name, what) => results[name].map((r) => r[what]).sort((a, b) => a - b)[TURNS >> 1]
  for (const name of Object.keys(results)) {
    const of = (what) => median(name, what)
    console.log(`${name.padEnd(20)} ${Math.round(of('rate'))} requests/s (${(100 * of('rate') / median('bare http', 'rate')).toFixed(0)}% of bare http), ` +
      `${of('cost').toFixed(1)} µs of CPU each (bare / this: ${(100 * median('bare http', 'cost') / of('cost')).toFixed(0)}%)`)
  }
}

main().finally(async () => {
  for (const cleanup of cleanups) await cleanup()
})
