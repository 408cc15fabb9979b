'use strict'

const path = require('node:path')
const express = require('express')

const app = express()
app.set('view engine', 'ejs')
app.set('views', path.join(__dirname, 'views'))
app.use(express.static(path.join(__dirname, 'public')))
app.use(express.urlencoded())

app.get('/', (req, res) => res.render('index', { teas: ['assam', '<oolong>'] }))
app.post('/orders', (req, res) => res.redirect(303, `/orders/${req.body.tea}`))
app.get('/fail', async () => { throw new Error('cold') })
app.use((req, res) => res.status(404).send('no tea'))
app.use((error, req, res, next) => res.status(500).send(error.message))

// As tutorials do it.
const port = process.env.PORT || 3000
app.listen(port, () => console.log(`listening on ${port}`))
