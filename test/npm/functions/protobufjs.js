'use strict'

const protobuf = require('protobufjs')

module.exports = (req, res) => {
  const { root } = protobuf.parse('syntax = "proto3"; message Tea { string name = 1; repeated uint32 cups = 2; map<string, int64> prices = 3; oneof kind { bool hot = 4; bool iced = 5; } }')
  const Tea = root.lookupType('Tea')
  const bytes = Tea.encode(Tea.fromObject({ name: 'assam', cups: [1, 300], prices: { eur: 5 }, iced: true })).finish()
  res.json({ ok: true, bytes: Buffer.from(bytes).toString('hex'), back: Tea.toObject(Tea.decode(bytes), { longs: String, oneofs: true }), wrong: Tea.verify({ name: 1 }) })
}
