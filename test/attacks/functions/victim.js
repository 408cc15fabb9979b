// The function that is attacked. It keeps a secret wherever a function may have
// one, says how it is, and hears the beats of what should be dead.
'use strict'
const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')
const os = require('node:os')
const { native, nativeLeft } = require('./attempt.js')

const started = `${Date.now()}-${process.hrtime.bigint()}`
const beats = {}
let memory // keeps the secret on the heap
let holding
let inside

async function keep (secret) {
  memory = Buffer.from(secret)
  process.env.SANFRAN_VICTIM = secret
  for (const file of ['/tmp/victim', '/dev/shm/victim']) fs.writeFileSync(file, secret, { mode: 0o666 })
  fs.writeFileSync('/data/victim', `${secret}-data`)
  console.log(`the victim keeps ${secret}-log`)
  holding ??= await nativeLeft('hold', secret)
  // A server in its own network, for neighbours to look for.
  inside ??= await new Promise((resolve, reject) => {
    const server = net.createServer((socket) => socket.end(secret)).on('error', reject).listen(9999, () => resolve(server))
  })
}

module.exports = {
  // keeps a secret, and tells the runner what a neighbour could come to know.
  async keep (req, res) {
    await keep(req.query.secret)
    const eth0 = (os.networkInterfaces().eth0 ?? []).find(({ family }) => family === 'IPv4')
    const namespaces = {}
    for (const name of fs.readdirSync('/proc/self/ns')) namespaces[name] = fs.readlinkSync(`/proc/self/ns/${name}`)
    res.json({ container: eth0 ? `${eth0.address}:9999` : '', socket: native('whereabouts'), namespaces, started })
  },

  // says whether it is as it was.
  intact (req, res) {
    const secret = req.query.secret
    const files = ['/tmp/victim', '/dev/shm/victim'].map((file) => fs.readFileSync(file, 'utf8'))
    res.json({ intact: [memory?.toString(), process.env.SANFRAN_VICTIM, ...files].every((s) => s === secret), started })
  },

  // reads what everybody shares, for a neighbour who watches.
  touch (req, res) {
    for (const file of ['/usr/local/bin/node', '/opt/sanfran/worker/start.js', '/etc/passwd', `${__dirname}/index.js`]) fs.closeSync(fs.openSync(file))
    res.json({ touched: true })
  },

  // says who answers at an address.
  async ask (req, res) {
    res.json({ answer: await new Promise((resolve) => {
      const request = http.get(`http://${req.query.address}/`, { timeout: 1000, agent: false }, (answer) => {
        let body = ''
        answer.on('data', (data) => { body += data })
        answer.on('end', () => resolve(body))
      })
      request.on('timeout', () => request.destroy())
      request.on('error', () => resolve(''))
    }) })
  },

  // uses one of what a neighbour may have taken.
  use (req, res) {
    const { what, self, port } = req.query
    try { res.json({ used: what === 'port' ? native('take-port', self, port) : native('use', what) }) } catch (error) { res.json({ refused: `${error.code} ${error.message}` }) }
  },

  // hears of a process that wants to outlive its lease; how many times so far.
  beat (req, res) {
    beats[req.query.name] = (beats[req.query.name] ?? 0) + 1
    res.end()
  },
  beats (req, res) {
    res.json({ beats: beats[req.query.name] ?? 0 })
  },
}
