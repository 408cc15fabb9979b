'use strict'

// Compiles what type stripping cannot: enums, parameter properties, paths of
// tsconfig.json.
require('tsx/cjs')

const { Order } = require('./orders/order.ts')

module.exports = async (req, res) => {
  const { late } = await import('./orders/late.ts')
  res.json({ ok: true, text: new Order(2).text(), late })
}
