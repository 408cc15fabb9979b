'use strict'

// Changes Node's HTTP server and client, to follow requests.
const Sentry = require('@sentry/node')

const sent = []
Sentry.init({
  dsn: 'https://key@sentry.example/1', tracesSampleRate: 1, release: 'shop@1',
  transport: () => ({
    send: async (envelope) => {
      for (const [{ type }, item] of envelope[1]) sent.push([type, item])
      return { statusCode: 200 }
    },
    flush: async () => true,
  }),
})

const { createServer } = require('node:http')
const { text } = require('node:stream/consumers')
const http = require('node:http')
const { listen } = require('./loopback.js')

module.exports = async (req, res) => {
  const server = createServer((req, res) => res.end(JSON.stringify([Boolean(req.headers['sentry-trace']), Boolean(req.headers.baggage)])))
  const port = await listen(server)
  const { attributes } = Sentry.spanToJSON(Sentry.getActiveSpan())
  const traced = await Sentry.startSpan({ name: 'order tea', op: 'task' }, async () => {
    Sentry.setTag('tea', 'assam')
    try {
      throw new TypeError('cold')
    } catch (error) {
      Sentry.captureException(error)
    }
    const answer = await new Promise((resolve) => http.get({ port, host: '127.0.0.1' }, resolve))
    return JSON.parse(await text(answer))
  })
  await Sentry.flush(2000)
  server.close()
  const error = sent.find(([type]) => type === 'event')?.[1]
  const names = sent.filter(([type]) => type === 'span').flatMap(([, { items }]) => items.map(({ name }) => name)).sort()
  res.json({
    ok: true, request: [attributes['sentry.op'], attributes['url.path']], traced, exception: error?.exception.values.map(({ type, value, stacktrace }) => [type, value, stacktrace.frames.at(-1).filename.endsWith('/index.js')]),
    tags: error?.tags, spans: names,
  })
}
