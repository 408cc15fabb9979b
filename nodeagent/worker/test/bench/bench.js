'use strict'

// Measures the worker: `npm run bench`, on each Node.js, or `npm run bench:26`.
// Activation and first answer over many containers; then throughput of warm
// functions beside a bare http server and Express, in turns, on as many
// connections. CPU time is told too, and where the machine does other work it
// is what to go by. ACTIVATIONS, SECONDS (of one turn) and PIPELINE may be set.

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const net = require('node:net')
const os = require('node:os')

const { Container, LEASE, bundle, NODE_ADDRESS, POD_ADDRESS } = require('../container.js')

const ACTIVATIONS = Number(process.env.ACTIVATIONS ?? 20)
const SECONDS = Number(process.env.SECONDS ?? 3)
const TURNS = 5
const CONNECTIONS = 16
/** Requests that a connection has under way; more of them make the kernel's share smaller. */
const PIPELINE = Number(process.env.PIPELINE ?? 1)

const HELLO = { 'index.js': 'module.exports = (req, res) => res.send(`Hello ${req.query.name}`)' }
const FETCH = { 'index.mjs': 'export default { fetch: (request) => new Response(`Hello ${new URL(request.url).searchParams.get("name")}`) }' }
const HEAD = `GET /?name=world HTTP/1.1\r\nHost: bench\r\nSanfran-Lease: ${LEASE}\r\nUser-Agent: bench\r\nAccept: */*\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n`

/** What we hold ourselves to. */
const BARS = {
  ready: 1.5, // ms, activate to ready, p50
  first: 2.5, // ms, activate to the first answer, p50
  'function (req, res)': { bare: 0.7, Express: 1.6 },
  'function fetch': { bare: 0.6 },
  'server, direct': { bare: 0.95 },
  'server, gateway': { bare: 0.95 },
}

const cleanups = []
const t = { after: (fn) => cleanups.unshift(fn) }
const ms = (a, b) => Number(b - a) / 1e6
const quantile = (list, q) => [...list].sort((a, b) => a - b)[Math.min(list.length - 1, Math.floor(q * list.length))].toFixed(2)

async function activations(files) {
  const folder = bundle(t, files) // the agent has it before, too
  const boots = [], loads = [], readies = [], firsts = [], cpus = [], rss = []
  for (let i = 0; i < ACTIVATIONS; i++) {
    const start = process.hrtime.bigint()
    const container = await Container.start(t)
    boots.push(ms(start, process.hrtime.bigint()))
    const client = net.connect(container.port, NODE_ADDRESS).setEncoding('utf8')
    await once(client, 'connect')
    const used = mainThread(container.process.pid)
    const began = process.hrtime.bigint()
    const { loadMs } = await container.activate(t, folder)
    const ready = process.hrtime.bigint()
    client.write(HEAD)
    await once(client, 'data')
    const first = process.hrtime.bigint()
    cpus.push(mainThread(container.process.pid) - used)
    loads.push(loadMs)
    readies.push(ms(began, ready))
    firsts.push(ms(began, first))
    rss.push(Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${container.process.pid}/status`, 'utf8'))[1]) / 1024)
    client.destroy()
    await container.stop()
  }
  const show = (list) => `p50 ${quantile(list, 0.5)} p95 ${quantile(list, 0.95)}`
  console.log(`  start to warm    ms ${show(boots)}; RSS MiB ${show(rss)}`)
  console.log(`  activate, ready  ms ${show(readies)} (bar: p50 ${BARS.ready}), of which loading ${show(loads)}`)
  console.log(`  … first answer   ms ${show(firsts)} (bar: p50 ${BARS.first}), CPU time ${show(cpus)}`)
}

/** CPU time of a process's main thread so far, in milliseconds. */
const mainThread = (pid) => Number(fs.readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6

/** CPU time of a process so far, in microseconds; a tick is 10 ms. */
function cpu(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '').split(' ')
  return (Number(fields[11]) + Number(fields[12])) * 10_000
}

/**
 * How fast a server answers on a few connections kept busy: requests per second,
 * and its CPU time per request, which other work on the machine disturbs less.
 */
async function throughput({ port, pid, host = NODE_ADDRESS }) {
  const size = await sizeOfAnswer(port, host)
  // The client's own work must not be what bounds a server: it counts bytes.
  let bytes = 0
  const buffer = Buffer.allocUnsafeSlow(1 << 16)
  const sockets = Array.from({ length: CONNECTIONS }, () => {
    let rest = 0
    const socket = net.connect({
      port, host,
      onread: {
        buffer,
        callback(n) {
          bytes += n
          rest += n
          const answers = Math.floor(rest / size)
          rest -= answers * size
          socket.write(answers === 1 ? HEAD : HEAD.repeat(answers))
          return true
        },
      },
    })
    socket.write(HEAD.repeat(PIPELINE))
    return socket
  })
  const began = process.hrtime.bigint()
  const used = cpu(pid)
  await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000))
  const answered = bytes / size
  const rate = answered / ms(began, process.hrtime.bigint()) * 1000
  const cost = (cpu(pid) - used) / answered
  for (const socket of sockets) socket.destroy()
  return { rate, cost }
}

/** How many bytes one answer has, which is the right one and the same each time. */
async function sizeOfAnswer(port, host) {
  const socket = net.connect(port, host).setEncoding('latin1')
  const sizes = []
  for (let i = 0; i < 2; i++) {
    socket.write(HEAD)
    const [text] = await once(socket, 'data')
    if (!text.startsWith('HTTP/1.1 200 ') || !text.endsWith('\r\n\r\nHello world')) throw new Error(`a wrong answer: ${text}`)
    sizes.push(text.length)
  }
  socket.destroy()
  if (sizes[0] !== sizes[1]) throw new Error(`answers of ${sizes} bytes`)
  return sizes[0]
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
  console.log(`Node.js ${process.version}, load ${os.loadavg()[0].toFixed(1)}`)
  console.log(`${ACTIVATIONS} activations of hello`)
  await activations(HELLO)
  console.log(`${ACTIVATIONS} activations of a fetch handler`)
  await activations(FETCH)

  const servers = { bare: await server(BARE), Express: await server(EXPRESS) }
  for (const [name, files] of Object.entries({ 'function (req, res)': HELLO, 'function fetch': FETCH })) {
    const container = await Container.start(t)
    await container.activate(t, files)
    servers[name] = { port: container.port, pid: container.process.pid }
  }
  // The bare server's own code, unmodified, on both kinds of connection.
  const own = await Container.start(t)
  await own.activate(t, { 'server.js': BARE }, { command: ['node', 'server.js'] })
  for (const [name, host] of [['server, direct', POD_ADDRESS], ['server, gateway', NODE_ADDRESS]]) {
    servers[name] = { port: own.port, pid: own.process.pid, host }
  }
  const results = {}
  for (let turn = 0; turn <= TURNS; turn++) {
    for (const [name, server] of Object.entries(servers)) {
      const result = await throughput(server)
      if (turn > 0) (results[name] ??= []).push(result) // the first turn warms all up
    }
  }
  const median = (list) => list.sort((a, b) => a - b)[list.length >> 1]
  const of = (name, what) => median(results[name].map((r) => r[what]))
  for (const name of Object.keys(results)) {
    // Ratios of one turn, because the machine's speed changes between turns.
    const ratio = (to) => `${median(results[name].map((r, i) => r.rate / results[to][i].rate)).toFixed(2)} × ${to}`
    const cheaper = (to) => (of(to, 'cost') / of(name, 'cost')).toFixed(2)
    const bars = Object.entries(BARS[name] ?? {}).map(([to, bar]) => `; ${ratio(to)}, by CPU time ${cheaper(to)} (bar: ${bar})`)
    console.log(`${name.padEnd(20)} ${Math.round(of(name, 'rate'))} requests/s, ${of(name, 'cost').toFixed(1)} µs of CPU each${bars.join('')}`)
  }
}

main().finally(async () => {
  for (const cleanup of cleanups) await cleanup()
})
