'use strict'

const { parse, stringify, v4, v5, v7, validate, version } = require('uuid')

module.exports = (req, res) => {
  const random = v4()
  const timed = [v7(), v7()]
  res.json({
    ok: true, valid: validate(random), versions: [version(random), version(timed[0])], ordered: timed[0] < timed[1],
    named: v5('sanfran.dev', v5.DNS), back: stringify(parse(random)) === random,
  })
}
