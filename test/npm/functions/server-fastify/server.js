'use strict'

const fastify = require('fastify')

const app = fastify({ logger: true })
app.get('/teas/:name', { schema: { response: { 200: { type: 'object', properties: { name: { type: 'string' } } } } } },
  async ({ params }) => ({ name: params.name, hidden: true }))
app.get('/stream', async (request, reply) => {
  const { Readable } = require('node:stream')
  return reply.type('text/plain').send(Readable.from(['one ', 'two']))
})

// A second server of the same process, on loopback.
const admin = fastify()
admin.get('/', async () => 'admin')

async function start() {
  app.get('/admin', async () => (await fetch(`http://127.0.0.1:${admin.server.address().port}/`)).text())
  await app.listen({ port: Number(process.env.PORT ?? 3000), host: '0.0.0.0' })
  await admin.listen({ port: 0, host: '127.0.0.1' })
}
start()
