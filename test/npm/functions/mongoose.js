'use strict'

const mongoose = require('mongoose')
const { listen } = require('./loopback.js')
const { mongoServer } = require('./mongo-server.js')

const schema = new mongoose.Schema({ name: { type: String, required: true, lowercase: true }, cups: { type: Number, min: 1, default: 1 } })
schema.virtual('title').get(function () { return `${this.cups} × ${this.name}` })
schema.pre('save', function () { this.cups += 1 })
const Tea = mongoose.model('Tea', schema)

module.exports = async (req, res) => {
  const heard = []
  const server = mongoServer(heard)
  await mongoose.connect(`mongodb://127.0.0.1:${await listen(server)}/shop?directConnection=true`, { autoIndex: false, autoCreate: false })
  await Tea.create({ _id: '65a000000000000000000001', name: 'Assam' })
  const [tea] = await Tea.find({ name: /a/ })
  const wrong = await Tea.create({ cups: 0 }).catch((error) => Object.keys(error.errors).sort())
  await mongoose.disconnect()
  server.close()
  res.json({ ok: true, title: tea.title, id: tea.id, wrong, heard })
}
