'use strict'

const snappy = require('snappy')

module.exports = async (req, res) => {
  const text = 'the same words again and again '.repeat(1000)
  const small = await snappy.compress(text)
  res.json({ ok: true, shorter: small.length < text.length / 10, back: (await snappy.uncompress(small, { asBuffer: false })) === text, sync: snappy.uncompressSync(snappy.compressSync('tea')).toString() })
}
