// What all attacks have in common. An attack is an async function of the facts
// that the runner knows; what it returns is what it got, and an error with a code
// is a refusal. An error without one is a mistake in the attack itself.
'use strict'
const { spawn, spawnSync } = require('node:child_process')
const fs = require('node:fs')
const net = require('node:net')
const zlib = require('node:zlib')

class Refused extends Error {
  constructor (code, message) {
    super(message)
    this.code = code
  }
}

// Bundles need not keep the executable bit; /tmp is the function's own.
const program = '/tmp/native'
function unpackNative () {
  if (!fs.existsSync(program)) fs.writeFileSync(program, zlib.gunzipSync(fs.readFileSync(`${__dirname}/native.gz`)), { mode: 0o755 })
  return program
}

// The program inherits the worker's listener, control socket and log.
const inherit = ['ignore', 'pipe', 'pipe', 3, 4, 5]

function read (name, output) {
  const [verdict, what, ...rest] = output.trim().split(' ')
  if (verdict === 'got') return [what, ...rest].join(' ')
  if (verdict === 'refused') throw new Refused(what, rest.join(' '))
  throw new Error(`native ${name}: ${output || 'no output'}`)
}

// native makes an attack of native.c. Nothing else runs meanwhile.
function native (name, ...args) {
  const { error, stdout, stderr, signal } = spawnSync(unpackNative(), [name, ...args], { stdio: inherit, timeout: 15_000, encoding: 'utf8' })
  if (error) throw new Error(`native ${name}: ${error.message}`)
  return read(name, stdout || `${stderr}${signal ?? ''}`)
}

// nativeBeside makes one while the function goes on serving.
function nativeBeside (name, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(unpackNative(), [name, ...args], { stdio: inherit, timeout: 60_000 })
    let output = ''
    child.stdout.on('data', (data) => { output += data })
    child.on('error', reject)
    child.on('close', () => { try { resolve(read(name, output)) } catch (error) { reject(error) } })
  })
}

// nativeLeft starts one that stays, and resolves with its first line.
function nativeLeft (name, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(unpackNative(), [name, ...args], { stdio: inherit })
    child.on('error', reject)
    child.stdout.once('data', (data) => {
      const line = String(data).trim()
      if (/^(?:holding|listening)\b/.test(line)) return resolve(line)
      try { resolve(read(name, line)) } catch (error) { reject(error) }
    })
    child.on('close', () => reject(new Error(`native ${name} ended without a word`)))
    child.unref()
  })
}

// connect succeeds if a TCP connection comes about within a second.
function connect (address) {
  const at = address.lastIndexOf(':')
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host: address.slice(0, at), port: Number(address.slice(at + 1)) })
    const timer = setTimeout(() => { socket.destroy(); reject(new Refused('ETIMEDOUT', address)) }, 1000)
    socket.on('connect', () => { clearTimeout(timer); socket.destroy(); resolve(`connected to ${address}`) })
    socket.on('error', (error) => { clearTimeout(timer); reject(error) })
  })
}

module.exports = { Refused, connect, native, nativeBeside, nativeLeft }
