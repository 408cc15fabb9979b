'use strict'

const Ajv = require('ajv')
const addFormats = require('ajv-formats')

const ajv = addFormats(new Ajv({ allErrors: true, coerceTypes: true, useDefaults: true }))
const validate = ajv.compile({
  type: 'object', required: ['tea'], additionalProperties: false,
  properties: { tea: { enum: ['assam', 'oolong'] }, cups: { type: 'integer', minimum: 1, default: 1 }, mail: { type: 'string', format: 'email' } },
})

module.exports = (req, res) => {
  const good = { tea: 'assam', cups: '2' }
  const right = validate(good)
  const wrong = validate({ tea: 'coffee', mail: 'x', more: 1 })
  res.json({ ok: true, right, good, wrong, errors: validate.errors.map(({ instancePath, keyword }) => [instancePath, keyword]).sort() })
}
