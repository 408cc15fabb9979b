'use strict'

const { MongoClient, ObjectId } = require('mongodb')
const { listen } = require('./loopback.js')
const { mongoServer } = require('./mongo-server.js')

module.exports = async (req, res) => {
  const heard = []
  const server = mongoServer(heard)
  const client = new MongoClient(`mongodb://127.0.0.1:${await listen(server)}/?directConnection=true`, { serverSelectionTimeoutMS: 5000 })
  await client.connect()
  const teas = client.db('shop').collection('teas')
  const ping = await client.db('shop').command({ ping: 1 })
  const inserted = await teas.insertMany([{ _id: new ObjectId('65a000000000000000000001'), name: 'assam' }, { _id: 2, name: 'oolong' }])
  const found = await teas.find({ name: { $exists: true } }).sort({ name: -1 }).toArray()
  await client.close()
  server.close()
  const away = new MongoClient('mongodb://127.0.0.1:1/', { serverSelectionTimeoutMS: 100 })
  const refused = await away.connect().catch((error) => error.name)
  await away.close()
  res.json({ ok: true, ping: ping.ok, inserted: inserted.insertedCount, ids: Object.values(inserted.insertedIds), found, heard, refused })
}
