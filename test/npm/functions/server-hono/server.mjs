import { serve } from '@hono/node-server'
import { serveStatic } from '@hono/node-server/serve-static'
import { Hono } from 'hono'

const app = new Hono()
app.get('/teas/:name', (c) => c.json({ name: c.req.param('name'), query: c.req.query() }))
app.post('/echo', async (c) => c.body(await c.req.arrayBuffer(), 200, { 'Content-Type': 'text/plain' }))
app.get('/*', serveStatic({ root: './public' }))

serve({ fetch: app.fetch, port: 8787 })
