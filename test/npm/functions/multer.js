'use strict'

const express = require('express')
const multer = require('multer')

const upload = multer({ storage: multer.memoryStorage(), limits: { fileSize: 1000 } })
const onDisk = multer({ dest: '/tmp/uploads' })
const app = express()
app.post('/memory', upload.array('files', 2), (req, res) => res.json({ ok: true, body: { ...req.body }, files: req.files.map(({ originalname, mimetype, size, buffer }) => [originalname, mimetype, size, buffer.toString()]) }))
app.post('/disk', onDisk.single('file'), (req, res) => res.json({ size: req.file.size }))
app.use((error, req, res, next) => res.status(400).json({ code: error.code }))

module.exports = app
