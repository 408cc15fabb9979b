'use strict'

const { createServer } = require('node:http')
const { text } = require('node:stream/consumers')
const Stripe = require('stripe')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const heard = []
  const server = createServer(async (req, res) => {
    heard.push(`${req.method} ${req.url} ${req.headers.authorization} ${await text(req)}`.trim())
    res.setHeader('Content-Type', 'application/json')
    if (req.url.endsWith('/none')) return res.writeHead(404).end('{"error":{"type":"invalid_request_error","code":"resource_missing","message":"no such"}}')
    if (req.url.startsWith('/v1/customers?')) {
      const last = req.url.includes('starting_after')
      return res.end(JSON.stringify({ object: 'list', has_more: !last, data: [{ id: last ? 'cus_2' : 'cus_1', object: 'customer' }] }))
    }
    res.end('{"id":"pi_1","object":"payment_intent","amount":1200,"currency":"eur"}')
  })
  const stripe = new Stripe('sk_test_1', { host: '127.0.0.1', port: await listen(server), protocol: 'http', telemetry: false })
  const intent = await stripe.paymentIntents.create({ amount: 1200, currency: 'eur', metadata: { order: '7' } })
  const customers = []
  for await (const customer of stripe.customers.list({ limit: 1 })) customers.push(customer.id)
  const missing = await stripe.paymentIntents.retrieve('none').catch((error) => [error.type, error.code])
  const payload = '{"id":"evt_1","object":"event"}'
  const header = stripe.webhooks.generateTestHeaderString({ payload, secret: 'whsec' })
  const event = stripe.webhooks.constructEvent(payload, header, 'whsec')
  let forged
  try { stripe.webhooks.constructEvent(payload, header, 'other') } catch (error) { forged = error.type }
  server.close()
  server.closeAllConnections()
  res.json({ ok: true, intent: [intent.id, intent.amount], customers, missing, event: event.id, forged, heard })
}
