'use strict'

// Measures the worker: `npm run bench`. Activation and first answer over many
// containers; then throughput of a warm function beside a bare http server and
// Express, in turns, on the same connections.

const { once } = require('node:events')
const http = require('node:http')
const net = require('node:net')
const { spawn } = require('node:child_process')

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
    rss.push(Number(/VmRSS:\s+(\d+)/.exec(require('node:fs').readFileSync(`/proc/${container.process.pid}/status`, 'utf8'))[1]) / 1024)
    client.destroy()
    await container.stop()
  }
  const show = (list) => `p50 ${quantile(list, 0.5)} p95 ${quantile(list, 0.95)}`
  console.log(`  start to warm ms ${show(boots)}; load ms ${show(loads)}; activate to ready ms ${show(readies)}; activate to first answer ms ${show(firsts)}; RSS MiB ${show(rss)}`)
}

/** Requests per second that a server answers on a few connections kept busy. */
async function throughput(port) {
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
  await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000))
  const rate = answered / ms(began, process.hrtime.bigint()) * 1000
  for (const socket of sockets) socket.destroy()
  return rate
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
  return Number(String((await once(child.stdout, 'data'))[0]))
}

async function main() {
  console.log(`${ACTIVATIONS} activations of hello`)
  await activations(HELLO)
  console.log(`${ACTIVATIONS} activations of a fetch handler`)
  await activations(FETCH)

  const ports = { 'bare http': await server(BARE), Express: await server(EXPRESS) }
  for (const [name, files] of Object.entries({ 'function (req, res)': HELLO, 'function fetch': FETCH })) {
    const container = await Container.start(t)
    await container.activate(t, files)
    ports[name] = container.port
  }
  const rates = {}
  for (let turn = 0; turn <= TURNS; turn++) {
    for (const [name, port] of Object.entries(ports)) {
      const rate = await throughput(port)
      if (turn > 0) (rates[name] ??= []).push(rate) // the first turn warms all up
    }
  }
  const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1]
  const bare = median(rates['bare http'])
  for (const [name, list] of Object.entries(rates)) {
    console.log(`${name.padEnd(20)} ${Math.round(median(list))} requests/s, ${(100 * median(list) / bare).toFixed(0)}% of bare http`)
  }
}

main().finally(async () => {
  for (const cleanup of cleanups) await cleanup()
})
