'use strict'

const argon2 = require('argon2')

module.exports = async (req, res) => {
  const hash = await argon2.hash('correct horse', { memoryCost: 4096, timeCost: 2, parallelism: 2 })
  const raw = await argon2.hash('password', { salt: Buffer.from('somesalt'), raw: true, type: argon2.argon2id, memoryCost: 256, timeCost: 2, parallelism: 1 })
  res.json({
    ok: true, settings: hash.split('$').slice(1, 4), right: await argon2.verify(hash, 'correct horse'), wrong: await argon2.verify(hash, 'battery'),
    rehash: argon2.needsRehash(hash, { memoryCost: 8192 }), vector: raw.toString('hex'),
  })
}
