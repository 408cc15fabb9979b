'use strict'

const { transform } = require('sucrase')

module.exports = (req, res) => res.json({
  ok: true, code: transform('export const tea = (name: string) => <b>{name!}</b>', { transforms: ['typescript', 'jsx', 'imports'], production: true }).code,
})
