import { Hono } from 'hono'
import { basicAuth } from 'hono/basic-auth'
import { cors } from 'hono/cors'
import { stream } from 'hono/streaming'
import { validator } from 'hono/validator'

const app = new Hono()
app.use(cors())
app.use('/private/*', basicAuth({ username: 'vik', password: 'pw' }))
app.get('/private/page', (c) => c.text('inside'))
app.get('/stream', (c) => stream(c, async (out) => {
  for (const word of ['one ', 'two ', 'three']) await out.write(word)
}))
app.post('/orders/:id', validator('json', (value, c) => value.tea ? value : c.text('no tea', 400)), async (c) => {
  const outside = await app.request('/private/page')
  const inside = await app.request('/private/page', { headers: { authorization: `Basic ${btoa('vik:pw')}` } })
  return c.json({
    ok: true, id: c.req.param('id'), body: c.req.valid('json'), query: c.req.query('q'), outside: outside.status,
    inside: await inside.text(), streamed: await (await app.request('/stream')).text(),
  }, 201)
})

export default app
