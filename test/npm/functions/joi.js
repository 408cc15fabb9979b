'use strict'

const Joi = require('joi')

const order = Joi.object({ tea: Joi.string().valid('assam', 'oolong').required(), cups: Joi.number().integer().min(1).default(1), mail: Joi.string().email() })

module.exports = async (req, res) => {
  const { error } = order.validate({ tea: 'coffee', cups: 0, mail: 'x' }, { abortEarly: false })
  res.json({ ok: true, good: await order.validateAsync({ tea: 'assam', cups: '2' }), bad: error.details.map(({ path, type }) => [path.join('.'), type]) })
}
