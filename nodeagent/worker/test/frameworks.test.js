'use strict'

// Contract 4 with the frameworks that people use: each program is as its own
// documentation has it.

const assert = require('node:assert/strict')
const http = require('node:http')
const { once } = require('node:events')
const test = require('node:test')

const { io } = require('socket.io-client')
const { serving, request, LEASE, NODE_ADDRESS, NONCE, POD_ADDRESS } = require('./container.js')

// Each answers GET /hello/:name, and POST /echo with the JSON it got.
const PROGRAMS = {
  'node:http': {
    'server.js': `
      const http = require('node:http')
      http.createServer(async (req, res) => {
        if (req.method === 'GET') return res.end('Hello ' + req.url.split('/')[2])
        const chunks = []
        for await (const chunk of req) chunks.push(chunk)
        res.setHeader('Content-Type', 'application/json')
        res.end(Buffer.concat(chunks))
      }).listen(process.env.PORT)`,
  },
  Express: {
    'server.js': `
      const express = require('express')
      const app = express()
      app.use(express.json())
      app.get('/hello/:name', (req, res) => res.send('Hello ' + req.params.name))
      app.post('/echo', (req, res) => res.json(req.body))
      const server = app.listen(process.env.PORT, () => console.log('listening on', server.address().port))
      module.exports = app`,
  },
  Fastify: { // which listens on localhost, on each of its addresses
    'server.js': `
      const fastify = require('fastify')({ logger: false })
      fastify.get('/hello/:name', async (req) => 'Hello ' + req.params.name)
      fastify.post('/echo', async (req) => req.body)
      fastify.listen({ port: Number(process.env.PORT) }).catch((error) => { console.error(error); process.exit(1) })`,
  },
  Hono: {
    'package.json': '{ "type": "module" }',
    'server.js': `
      import { serve } from '@hono/node-server'
      import { Hono } from 'hono'
      const app = new Hono()
      app.get('/hello/:name', (c) => c.text('Hello ' + c.req.param('name')))
      app.post('/echo', async (c) => c.json(await c.req.json()))
      serve({ fetch: app.fetch, port: Number(process.env.PORT) })
      export default app`,
  },
  Koa: {
    'server.js': `
      const Koa = require('koa')
      const app = new Koa()
      app.use(async (ctx) => {
        if (ctx.method === 'GET') return void (ctx.body = 'Hello ' + ctx.path.split('/')[2])
        const chunks = []
        for await (const chunk of ctx.req) chunks.push(chunk)
        ctx.body = JSON.parse(Buffer.concat(chunks))
      })
      app.listen(Number(process.env.PORT))`,
  },
  Nest: { // decorators applied as compiled TypeScript applies them
    'package.json': '{ "type": "module" }',
    'server.js': `
      import 'reflect-metadata'
      import { Body, Controller, Get, HttpCode, Module, Param, Post } from '@nestjs/common'
      import { NestFactory } from '@nestjs/core'
      class Hello { hello(name) { return 'Hello ' + name } echo(body) { return body } }
      const method = (name, ...decorators) => decorators.forEach((d) => d(Hello.prototype, name, Object.getOwnPropertyDescriptor(Hello.prototype, name)))
      method('hello', Get('hello/:name'))
      method('echo', Post('echo'), HttpCode(200))
      Param('name')(Hello.prototype, 'hello', 0)
      Body()(Hello.prototype, 'echo', 0)
      Controller()(Hello)
      class App {}
      Module({ controllers: [Hello] })(App)
      const app = await NestFactory.create(App, { logger: ['error'] })
      await app.listen(process.env.PORT)`,
  },
}

for (const [name, files] of Object.entries(PROGRAMS)) {
  test(`${name} listens by itself, and is reached both ways`, async (t) => {
    const container = await serving(t, files, { command: ['node', 'server.js'], packages: true, env: { PORT: '0', NODE_ENV: 'production' } })
    assert.equal(container.messages.find((m) => m.type === 'ready').kind, 'server')
    for (const way of ['request', 'direct']) {
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 })
      for (let i = 0; i < 3; i++) {
        const hello = await container[way]({ path: '/hello/Vik', agent })
        assert.deepEqual([hello.status, hello.text], [200, 'Hello Vik'])
        const echo = await container[way]({ path: '/echo', method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{"a":[1,2]}', agent })
        assert.deepEqual([echo.status, echo.json], [200, { a: [1, 2] }], way)
      }
      agent.destroy()
    }
    const refused = await request({ host: NODE_ADDRESS, port: container.port, path: '/hello/Vik' })
    assert.deepEqual([refused.status, refused.headers['sanfran-refused'], refused.text], [421, NONCE, ''])
  })
}

test('socket.io, both ways and by both of its transports', async (t) => {
  const container = await serving(t, {
    'server.js': `
      const { Server } = require('socket.io')
      const server = require('node:http').createServer((req, res) => res.end('plain'))
      new Server(server).on('connection', (socket) => socket.on('echo', (text, answer) => answer(text + ' via ' + socket.conn.transport.name)))
      server.listen(0)`,
  }, { command: ['node', 'server.js'], packages: true })
  for (const host of [NODE_ADDRESS, POD_ADDRESS]) {
    for (const transport of ['polling', 'websocket']) {
      const socket = io(`http://${host}:${container.port}`, {
        transports: [transport], reconnection: false, forceNew: true, extraHeaders: host === NODE_ADDRESS ? { 'Sanfran-Lease': LEASE } : {},
      })
      t.after(() => socket.close())
      assert.equal(await socket.emitWithAck('echo', 'hello'), `hello via ${transport}`)
      socket.close()
    }
  }
  const stranger = io(`http://${NODE_ADDRESS}:${container.port}`, { transports: ['websocket'], reconnection: false, forceNew: true })
  t.after(() => stranger.close())
  await once(stranger, 'connect_error')
  assert.equal((await container.request({})).text, 'plain')
})
