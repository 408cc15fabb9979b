'use strict'

const Koa = require('koa')
const Router = require('@koa/router')

const app = new Koa()
const router = new Router()
router.get('/teas/:name', (ctx) => { ctx.body = { name: ctx.params.name } })
app.use(router.routes())
app.listen(3000)
