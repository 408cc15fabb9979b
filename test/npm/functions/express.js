'use strict'

const compression = require('compression')
const cookieParser = require('cookie-parser')
const cors = require('cors')
const express = require('express')
const helmet = require('helmet')
const morgan = require('morgan')

const log = []
const app = express()
app.use(morgan(':method :url', { immediate: true, stream: { write: (line) => log.push(line.trim()) } }))
app.use(helmet(), cors({ origin: 'https://shop.example' }), compression({ threshold: 0 }), cookieParser('secret'), express.json())

const orders = express.Router({ mergeParams: true })
orders.param('id', (req, res, next, id) => {
  req.order = Number(id)
  next(Number.isInteger(req.order) ? undefined : Object.assign(new Error('not a number'), { status: 400 }))
})
orders.post('/:id', (req, res) => {
  res.cookie('seen', 'yes', { signed: true, httpOnly: true })
  res.status(201).json({
    ok: true, order: req.order, shop: req.params.shop, body: req.body, query: req.query, cookies: req.cookies,
    base: req.baseUrl, path: req.path, log,
  })
})
app.use('/shops/:shop/orders', orders)
app.use((error, req, res, next) => res.status(error.status ?? 500).json({ error: error.message }))

module.exports = app
