'use strict'

// What packages take for granted of the machine they run on.
const { execFileSync, execSync, fork } = require('node:child_process')
const dns = require('node:dns/promises')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const os = require('node:os')
const tls = require('node:tls')
const { Worker } = require('node:worker_threads')
const { listen } = require('./loopback.js')

const codeOf = (call) => {
  try { return call() } catch (error) { return error.code }
}

// How many of so many files can be open at once.
function openFiles(count) {
  const open = []
  try { while (open.length < count) open.push(fs.openSync('/dev/null')) } catch {}
  open.forEach((file) => fs.closeSync(file))
  return open.length
}

module.exports = async (req, res) => {
  fs.writeFileSync('/tmp/program', '#!/bin/sh\necho ran $1\n', { mode: 0o755 })
  fs.writeFileSync('/tmp/child.js', "process.on('message', (n) => process.send(n + 1, () => process.disconnect()))")
  fs.writeFileSync('/tmp/script', '#!/usr/bin/env node\nconsole.log(typeof require, process.argv.length)\n', { mode: 0o755 })
  const child = fork('/tmp/child.js')
  child.send(41)
  const [forked] = await once(child, 'message')
  const thread = new Worker("const { parentPort, threadId } = require('node:worker_threads'); parentPort.postMessage(new SharedArrayBuffer(8).byteLength)", { eval: true })
  const [shared] = await once(thread, 'message')
  const server = http.createServer((req, res) => res.end('from itself'))
  const port = await listen(server)
  const itself = await (await fetch(`http://localhost:${port}/`)).text()
  server.close()
  server.closeAllConnections()
  const socket = http.createServer((req, res) => res.end())
  socket.listen('/tmp/socket')
  await once(socket, 'listening')
  socket.close()
  const wasm = await WebAssembly.instantiate(Buffer.from('0061736d0100000001070160027f7f017f030201000707010361646400000a09010700200020016a0b', 'hex'))
  res.json({
    ok: true, program: execFileSync('/tmp/program', ['it']).toString(), script: execFileSync('/tmp/script').toString(), shell: execSync('echo $HOME; id -un').toString(), forked, shared, itself,
    localhost: (await dns.lookup('localhost', { family: 4 })).address, wasm: wasm.instance.exports.add(40, 2),
    home: os.homedir(), temporary: os.tmpdir(), user: os.userInfo().username, shellOf: os.userInfo().shell, processors: os.cpus().length > 0, host: os.hostname(),
    interfaces: Object.keys(os.networkInterfaces()).includes('lo'), roots: tls.rootCertificates.length > 100, certificates: fs.readFileSync('/etc/ssl/certs/ca-certificates.crt', 'utf8').includes('BEGIN CERTIFICATE'),
    number: new Intl.NumberFormat('de-DE', { style: 'currency', currency: 'EUR' }).format(1234.5), zone: new Intl.DateTimeFormat('en', { timeZone: 'Asia/Kathmandu', timeStyle: 'long' }).format(0),
    sorted: ['z', 'ä', 'a'].sort(new Intl.Collator('sv').compare), shm: fs.statSync('/dev/shm').isDirectory(), stdin: fs.readFileSync(0).length, readOnly: codeOf(() => fs.writeFileSync('/function/new', '')),
    big: fs.writeFileSync('/tmp/big', Buffer.alloc(64 << 20)) ?? fs.statSync('/tmp/big').size, files: openFiles(2000),
  })
}
