'use strict'

const Koa = require('koa')
const { bodyParser } = require('@koa/bodyparser')
const Router = require('@koa/router')

const app = new Koa()
app.use(async (ctx, next) => {
  ctx.state.began = 'before'
  await next()
  ctx.body.after = ctx.state.began
})
app.use(bodyParser())
const router = new Router()
router.post('/orders/:id', (ctx) => {
  ctx.status = 201
  ctx.body = { ok: true, id: ctx.params.id, body: ctx.request.body, query: { ...ctx.query }, accepts: ctx.accepts('html', 'json') }
})
app.use(router.routes()).use(router.allowedMethods())

module.exports = app.callback()
