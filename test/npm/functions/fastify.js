'use strict'

const fastify = require('fastify')

const app = fastify({ logger: { level: 'silent' } })
app.decorateRequest('shop', '')
app.addHook('onRequest', async (request) => { request.shop = request.headers['x-shop'] })
app.post('/orders/:id', {
  schema: {
    params: { type: 'object', properties: { id: { type: 'integer' } } },
    body: { type: 'object', required: ['tea'], properties: { tea: { type: 'string' }, cups: { type: 'integer', default: 1 } } },
    response: { 201: { type: 'object', properties: { ok: { type: 'boolean' }, id: { type: 'integer' }, shop: { type: 'string' }, body: { type: 'object', additionalProperties: true }, injected: { type: 'integer' }, refused: { type: 'string' } } } },
  },
}, async (request, reply) => {
  const injected = await app.inject('/nothing')
  const refused = await app.inject({ method: 'POST', url: '/orders/x', payload: { tea: 'black' } })
  reply.code(201)
  return { ok: true, id: request.params.id, shop: request.shop, body: request.body, injected: injected.statusCode, refused: refused.json().code, hidden: 'not in the schema' }
})

module.exports = async (req, res) => {
  await app.ready()
  app.server.emit('request', req, res)
}
