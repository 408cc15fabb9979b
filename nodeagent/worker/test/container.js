'use strict'

// The real worker as a child process, as an agent starts it: a listening TCP
// socket as descriptor 3, a control socket as descriptor 4 and the log's pipe as
// descriptor 5.

const { spawn } = require('node:child_process')
const { once } = require('node:events')
const fs = require('node:fs')
const http = require('node:http')
const net = require('node:net')
const os = require('node:os')
const path = require('node:path')

// SANFRAN_WORKER names another, such as the start.js of a root filesystem.
const MAIN = process.env.SANFRAN_WORKER || path.join(__dirname, '..', 'main.js')

/** What the agent gives to Node.js. */
const FLAGS = ['--inspect-publish-uid=http']

/** A gateway reaches the container at this address, a pod's clients at the other. */
const NODE_ADDRESS = '127.0.0.1'
const POD_ADDRESS = '127.0.0.7'
const LEASE = '0123456789abcdef0123456789abcdef'
const NONCE = 'fedcba9876543210fedcba9876543210'

class Container {
  messages = []
  /** All that was written, by whatever way, but what is for the agent: that is in reports. */
  log = ''
  reports = ''
  /** What came in frames: {stream, id, number, bytes, text}. */
  frames = []
  /** What came on descriptors 1 and 2 themselves. */
  raw = { 1: '', 2: '' }
  port = 0
  #waiting = []

  /** Starts a worker and waits until it is warm. It ends with the test t. */
  static async start(t, { host = '0.0.0.0', args = [], env = {}, warm = true } = {}) {
    const container = new Container()
    // Held by the parent only until the child has it.
    const listener = net.createServer()
    listener.listen({ port: 0, host, backlog: 511 })
    await once(listener, 'listening')
    container.port = listener.address().port
    container.process = spawn(process.execPath, [...FLAGS, ...args, MAIN], {
      stdio: ['ignore', 'pipe', 'pipe', listener._handle.fd, 'pipe', 'pipe'],
      env: { PATH: process.env.PATH, SANFRAN_TEST: 'the environment of the warm worker', ...env },
    })
    listener.close()
    container.#listen()
    t.after(() => container.stop())
    if (warm) await container.receive('warm')
    return container
  }

  #listen() {
    const { process: child } = this
    this.control = child.stdio[4]
    this.control.on('error', () => {})
    this.exited = once(child, 'exit').then(([code, signal]) => ({ code, signal }))
    this.closed = once(child, 'close')
    for (const fd of [1, 2]) {
      child.stdio[fd].setEncoding('utf8')
      child.stdio[fd].on('data', (text) => {
        this.raw[fd] += text
        this.log += text
        for (const check of this.#waiting.splice(0)) check()
      })
    }
    let rest = Buffer.alloc(0)
    child.stdio[5].on('error', () => {})
    child.stdio[5].on('data', (chunk) => {
      rest = this.#framed(Buffer.concat([rest, chunk]))
      for (const check of this.#waiting.splice(0)) check()
    })
    let partial = ''
    this.control.setEncoding('utf8')
    this.control.on('data', (text) => {
      const lines = (partial + text).split('\n')
      partial = lines.pop()
      for (const line of lines) this.messages.push(JSON.parse(line))
      for (const check of this.#waiting.splice(0)) check()
    })
    this.closed.then(() => {
      for (const check of this.#waiting.splice(0)) check(true)
    })
  }

  // Takes whole frames off the bytes and returns what is left.
  #framed(bytes) {
    while (bytes.length >= 12 && bytes.length >= 12 + bytes[2] + bytes.readUInt32LE(8)) {
      if (bytes[0] !== 0x1e) throw new Error(`no frame: ${bytes.subarray(0, 40)}`)
      const start = 12 + bytes[2]
      const end = start + bytes.readUInt32LE(8)
      const frame = { stream: bytes[1], id: bytes.toString('latin1', 12, start), number: bytes.readUInt32LE(4), bytes: Buffer.from(bytes.subarray(start, end)), get text() { return this.bytes.toString() } }
      if (frame.stream === 3) {
        this.reports += frame.text
      } else {
        this.frames.push(frame)
        this.log += frame.text
      }
      bytes = bytes.subarray(end)
    }
    return bytes
  }

  send(message) {
    this.control.write(JSON.stringify(message) + '\n')
  }

  /** The first message of a type, from `from` on, which may match a condition. */
  receive(type, { from = 0, where = () => true } = {}) {
    return new Promise((resolve, reject) => {
      const check = (over) => {
        const message = this.messages.slice(from).find((m) => m.type === type && where(m))
        if (message) resolve(message)
        else if (over) reject(new Error(`the worker ended without "${type}"; it sent ${JSON.stringify(this.messages)} and logged ${this.log}`))
        else this.#waiting.push(check)
      }
      check(this.process.exitCode !== null && this.control.destroyed)
    })
  }

  /** Resolves when the log matches. */
  logged(pattern, what = 'log') {
    return new Promise((resolve, reject) => {
      const check = (over) => {
        if (pattern.test(this[what])) resolve()
        else if (over) reject(new Error(`the worker ended and logged only ${this[what]}`))
        else this.#waiting.push(check)
      }
      check()
    })
  }

  /** Resolves when the agent was told what matches. */
  reported(pattern) {
    return this.logged(pattern, 'reports')
  }

  /** Activates a bundle, a folder or a map of file names to contents, and returns the answer. */
  async activate(t, files, { env = {}, loadTimeoutMs = 40_000, podAddress = POD_ADDRESS, port = 8080, command, workingDir, packages = false } = {}) {
    this.entry = typeof files === 'string' ? files : bundle(t, files)
    if (packages) fs.symlinkSync(copyOfPackages(), path.join(this.entry, 'node_modules'))
    this.send({
      type: 'activate', lease: LEASE, nonce: NONCE, namespace: 'default', function: 'hello', pod: 'hello', revision: 'ab12',
      entry: this.entry, podAddress, port, hostname: 'hello', env, loadTimeoutMs, command, workingDir,
    })
    return Promise.race([this.receive('ready'), this.receive('failed')])
  }

  /** A request as a gateway sends it. */
  request(options) {
    return request({ host: NODE_ADDRESS, port: this.port, ...options, headers: { 'Sanfran-Lease': LEASE, ...options.headers } })
  }

  /** A request to the pod's address. */
  direct(options) {
    return request({ host: POD_ADDRESS, port: this.port, ...options })
  }

  async stop() {
    this.process.kill('SIGKILL')
    await this.closed
  }
}

/** Writes files into a folder that is removed after the test. */
function bundle(t, files) {
  const folder = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'sanfran-bundle-')))
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }))
  for (const [name, content] of Object.entries(files)) {
    fs.mkdirSync(path.dirname(path.join(folder, name)), { recursive: true })
    fs.writeFileSync(path.join(folder, name), content)
  }
  return folder
}

/**
 * The packages that the tests install, as files of a bundle's own: those of the
 * worker are in use by it already.
 */
const copyOfPackages = () => {
  const from = path.join(__dirname, '..', 'node_modules')
  const folder = path.join(from, `.bundle-${process.pid}`)
  const to = path.join(folder, 'node_modules')
  if (fs.existsSync(to)) return to
  fs.mkdirSync(folder)
  process.on('exit', () => fs.rmSync(folder, { recursive: true, force: true }))
  const copy = (from, to) => {
    fs.mkdirSync(to)
    for (const item of fs.readdirSync(from, { withFileTypes: true })) {
      if (item.name.startsWith('.') || /^node2\d$/.test(item.name)) continue
      if (item.isDirectory()) copy(path.join(from, item.name), path.join(to, item.name))
      else fs.linkSync(path.join(from, item.name), path.join(to, item.name))
    }
  }
  copy(from, to)
  return to
}

/** Sends one request and reads the whole answer. */
function request({ body, signal, ...options }) {
  return new Promise((resolve, reject) => {
    const req = http.request({ agent: false, ...options }, async (res) => {
      try {
        const chunks = []
        for await (const chunk of res) chunks.push(chunk)
        const bytes = Buffer.concat(chunks)
        resolve({
          interim, status: res.statusCode, message: res.statusMessage, headers: res.headers, trailers: res.trailers, bytes, text: bytes.toString(),
          get json() {
            return JSON.parse(this.text)
          },
        })
      } catch (error) {
        reject(error)
      }
    })
    const interim = [] // 1xx
    req.on('information', (info) => interim.push(info))
    req.on('error', reject)
    req.end(body)
  })
}

/** A worker that has loaded the files: env is the function's, boot the worker's own. */
async function serving(t, files, options = {}) {
  const container = await Container.start(t, { ...options, env: options.boot })
  const answer = await container.activate(t, files, options)
  if (answer.type !== 'ready') throw new Error(`not ready: ${JSON.stringify(answer)}`)
  return container
}

module.exports = { Container, serving, request, bundle, LEASE, NONCE, NODE_ADDRESS, POD_ADDRESS }
