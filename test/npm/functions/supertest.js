'use strict'

const express = require('express')
const request = require('supertest')

const app = express()
app.get('/teas', (req, res) => res.type('html').cookie('a', '1').send('<p>assam</p>'))

module.exports = async (req, res) => {
  const { status, text } = await request(app).get('/teas').expect('Content-Type', /html/).expect('Set-Cookie', /a=1/).expect(200)
  const wrong = await request(app).get('/none').expect(200).then(() => 'passed', (error) => error.message)
  res.json({ ok: true, status, text, wrong })
}
