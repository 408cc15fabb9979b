'use strict'

const express = require('express')
const session = require('express-session')
const passport = require('passport')
const { Strategy } = require('passport-local')
const request = require('supertest')

passport.use(new Strategy((name, password, done) => done(null, password === 'pw' ? { name } : false)))
passport.serializeUser((user, done) => done(null, user.name))
passport.deserializeUser((name, done) => done(null, { name }))

const app = express()
app.use(express.urlencoded(), session({ secret: 'secret', resave: false, saveUninitialized: false }), passport.session())
app.post('/login', passport.authenticate('local'), (req, res) => res.json({ user: req.user.name }))
app.get('/me', (req, res) => req.isAuthenticated() ? res.json({ me: req.user.name }) : res.sendStatus(401))
app.get('/', async (req, res) => {
  const agent = request.agent(app)
  const before = await agent.get('/me')
  const wrong = await agent.post('/login').type('form').send({ username: 'vik', password: 'no' })
  const login = await agent.post('/login').type('form').send({ username: 'vik', password: 'pw' })
  const after = await agent.get('/me')
  res.json({ ok: true, before: before.status, wrong: wrong.status, login: login.body, after: after.body })
})

module.exports = app
