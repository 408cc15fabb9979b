'use strict'

const jose = require('jose')

module.exports = async (req, res) => {
  const { publicKey, privateKey } = await jose.generateKeyPair('EdDSA', { extractable: true })
  const token = await new jose.SignJWT({ scope: 'tea' }).setProtectedHeader({ alg: 'EdDSA', kid: 'k' }).setIssuer('shop').setExpirationTime('1h').sign(privateKey)
  const keys = jose.createLocalJWKSet({ keys: [{ ...(await jose.exportJWK(publicKey)), kid: 'k', alg: 'EdDSA' }] })
  const { payload, protectedHeader } = await jose.jwtVerify(token, keys, { issuer: 'shop' })
  const forged = await jose.jwtVerify(token, keys, { issuer: 'bank' }).catch((error) => error.code)
  const secret = new Uint8Array(32).fill(1)
  const sealed = await new jose.EncryptJWT({ pin: 1 }).setProtectedHeader({ alg: 'dir', enc: 'A256GCM' }).encrypt(secret)
  const opened = await jose.jwtDecrypt(sealed, secret)
  const thumbprint = await jose.calculateJwkThumbprint({ kty: 'oct', k: 'AQAB' })
  res.json({ ok: true, scope: payload.scope, alg: protectedHeader.alg, forged, opened: opened.payload.pin, thumbprint })
}
