'use strict'

const yup = require('yup')

const order = yup.object({ tea: yup.string().oneOf(['assam', 'oolong']).required(), cups: yup.number().integer().min(1).default(1), mail: yup.string().email() })

module.exports = async (req, res) => {
  const errors = await order.validate({ tea: 'coffee', cups: 0, mail: 'x' }, { abortEarly: false }).catch((error) => error.inner.map(({ path, type }) => [path, type]).sort())
  res.json({ ok: true, good: await order.validate({ tea: 'assam', cups: '2' }), errors })
}
