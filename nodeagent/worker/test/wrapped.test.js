'use strict'

// Middleware and frameworks as functions: they put methods of their own on the
// response, answer later, or by something else. Each request counts once, and
// draining waits for it and for no longer.

const assert = require('node:assert/strict')
const http = require('node:http')
const test = require('node:test')

const { serving } = require('./container.js')

// Reads its body and answers with it; /wait is answered with the next request.
const ANSWER = `
  const http = require('node:http')
  let wait = () => {}
  const answer = async (req, res) => {
    let text = req.method
    for await (const chunk of req) text += chunk
    if (req.url === '/wait') await new Promise((resolve) => { wait = resolve; console.log('waits') })
    else wait()
    res.setHeader('Content-Type', 'text/plain')
    res.end(text)
  }`

const WRAPPED = {
  'Koa’s callback': `
    const Koa = require('koa')
    module.exports = new Koa().use(async (ctx) => {
      let text = ctx.method
      for await (const chunk of ctx.req) text += chunk
      if (ctx.path === '/wait') await new Promise((resolve) => { wait = resolve; console.log('waits') })
      else wait()
      ctx.body = text
    }).callback()`,
  'a stack of middleware, as connect’s': `
    const stack = []
    const app = module.exports = (req, res, next) => app.handle(req, res, next)
    app.use = (fn) => (stack.push(fn), app)
    app.handle = (req, res, out) => {
      const next = (i) => (error) => error || i === stack.length ? out(error) : stack[i](req, res, next(i + 1))
      next(0)()
    }
    app.use((req, res, next) => setImmediate(next)).use(answer)`,
  'a proxy to a server of its own': `
    const upstream = http.createServer(answer)
    let listens
    module.exports = async (req, res) => {
      await (listens ??= new Promise((resolve) => upstream.listen(0, '127.0.0.1', resolve)))
      const { method, url: path, headers } = req
      const forward = http.request({ host: '127.0.0.1', port: upstream.address().port, method, path, headers })
      req.on('aborted', () => forward.destroy())
      forward.on('response', (answer) => { res.writeHead(answer.statusCode, answer.headers); answer.pipe(res) })
      req.pipe(forward)
    }`,
  'another server’s event': `
    const other = http.createServer(answer)
    module.exports = (req, res) => other.emit('request', req, res)`,
  'compression': `
    const zlib = require('node:zlib')
    module.exports = (req, res) => {
      const { write, end, on } = res
      let stream
      const begin = () => {
        if (stream || req.method === 'HEAD') return
        stream = zlib.createGzip()
        res.setHeader('Content-Encoding', 'gzip')
        on.call(res, 'drain', () => stream.resume())
        stream.on('data', (chunk) => write.call(res, chunk) || stream.pause()).on('end', () => end.call(res))
      }
      res.flush = () => stream?.flush()
      res.write = (...args) => (begin(), stream ? stream.write(...args) : write.apply(res, args))
      res.end = (...args) => (begin(), stream ? stream.end(...args) : end.apply(res, args))
      res.on = (name, fn) => (name === 'drain' && stream ? stream.on(name, fn) : on.call(res, name, fn))
      return answer(req, res)
    }`,
  'a session that is saved before the end': `
    module.exports = (req, res) => {
      const { end, writeHead } = res
      res.writeHead = function (...args) { res.writeHead = writeHead; this.setHeader('Set-Cookie', 'sid=1'); return writeHead.apply(this, args) }
      let ended = false
      res.end = function (...args) {
        if (ended) return false
        ended = true
        setTimeout(() => end.apply(this, args), 5)
        return true
      }
      return answer(req, res)
    }`,
  'an emit of its own': `
    module.exports = (req, res) => {
      const { emit } = res
      res.emit = function (name, ...args) { return name === 'close' ? false : emit.call(this, name, ...args) }
      return answer(req, res)
    }`,
  'other classes of request and response': `
    class Request extends http.IncomingMessage {}
    class Response extends http.ServerResponse { end(...args) { return super.end(...args) } }
    module.exports = (req, res) => answer(Object.setPrototypeOf(req, Request.prototype), Object.setPrototypeOf(res, Response.prototype))`,
  'a Proxy of the response': `
    module.exports = (req, res) => answer(req, new Proxy(res, {
      get(target, key) { const value = target[key]; return typeof value === 'function' ? value.bind(target) : value },
    }))`,
}

for (const [name, code] of Object.entries(WRAPPED)) {
  test(`each request counts once, and is drained: ${name}`, async (t) => {
    const container = await serving(t, { 'index.js': `${ANSWER}\n${code}` }, { packages: true })
    const agent = new http.Agent({ keepAlive: true })
    t.after(() => agent.destroy())
    const inFlight = async () => {
      const from = container.messages.length
      container.send({ type: 'ping' })
      return (await container.receive('activity', { from })).inFlight
    }
    const post = { method: 'POST', body: 'body', headers: { 'Content-Type': 'application/x-own' }, agent }
    const text = ({ headers, bytes }) => String(headers['content-encoding'] === 'gzip' ? require('node:zlib').gunzipSync(bytes) : bytes)

    const from = container.messages.length
    const waiting = container.request({ ...post, path: '/wait' })
    await container.receive('activity', { from, where: (m) => m.inFlight === 1 })
    await container.logged(/^waits\n$/)
    assert.equal(text(await container.request({ path: '/', agent })), 'GET')
    assert.equal(text(await waiting), 'POSTbody')
    assert.equal(text(await container.request({ ...post, path: '/' })), 'POSTbody')
    assert.equal(text(await container.request({ method: 'HEAD', path: '/', agent })), '')
    assert.equal(await inFlight(), 0)

    const before = container.messages.length
    const last = container.direct({ ...post, path: '/wait' })
    await container.receive('activity', { from: before, where: (m) => m.inFlight === 1 })
    await container.logged(/^waits\nwaits\n$/)
    const ends = container.direct({ path: '/' })
    container.send({ type: 'drain', graceMs: 600_000 })
    assert.deepEqual([text(await ends), text(await last)], ['GET', 'POSTbody'])
    await container.receive('drained')
    assert.equal(await inFlight(), 0)
  })
}
