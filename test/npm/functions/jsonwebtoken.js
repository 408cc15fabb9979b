'use strict'

const { generateKeyPairSync } = require('node:crypto')
const jwt = require('jsonwebtoken')

module.exports = (req, res) => {
  const failure = (token, key, options) => {
    try { return jwt.verify(token, key, options) } catch (error) { return `${error.name}: ${error.message}` }
  }
  const token = jwt.sign({ sub: 'vik', iat: 1_700_000_000 }, 'secret', { noTimestamp: true })
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const signed = jwt.sign({ scope: 'tea' }, privateKey, { algorithm: 'ES256', audience: 'shop', expiresIn: '1h' })
  res.json({
    ok: true, token, verified: jwt.verify(token, 'secret'), scope: jwt.verify(signed, publicKey, { audience: 'shop' }).scope,
    forged: failure(token, 'other'), audience: failure(signed, publicKey, { audience: 'bank' }), expired: failure(jwt.sign({ exp: 1 }, 'secret'), 'secret'),
  })
}
