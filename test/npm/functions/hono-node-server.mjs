import { serve } from '@hono/node-server'
import { Hono } from 'hono'

const inner = new Hono().get('/tea', (c) => c.text('assam', 201, { 'X-By': 'hono' }))

// serve puts classes of its own in the place of the global Request and Response.
const app = new Hono().get('/', async (c) => {
  const { server, port } = await new Promise((resolve) => {
    const server = serve({ fetch: inner.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) => resolve({ server, port }))
  })
  const answer = await fetch(`http://127.0.0.1:${port}/tea`)
  const text = await answer.text()
  server.close()
  return c.json({ ok: true, status: answer.status, by: answer.headers.get('x-by'), text })
})

export default app
