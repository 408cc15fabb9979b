'use strict'

const { z } = require('zod')

const Order = z.object({ tea: z.enum(['assam', 'oolong']), cups: z.coerce.number().int().positive().default(1), mail: z.email().optional() })

module.exports = (req, res) => {
  const bad = Order.safeParse({ tea: 'coffee', cups: -1, mail: 'x' })
  res.json({ ok: true, good: Order.parse({ tea: 'assam', cups: '2' }), bad: bad.error.issues.map(({ path, code }) => [path.join('.'), code]), schema: z.toJSONSchema(z.object({ a: z.string() })).required })
}
