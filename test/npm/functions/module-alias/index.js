'use strict'

// Changes how modules are found.
require('module-alias')({ base: __dirname })

module.exports = (req, res) => res.json({ ok: true, tea: require('@teas/assam'), cups: require('@cups')(2) })
