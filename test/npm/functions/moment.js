'use strict'

const moment = require('moment-timezone')
require('moment/locale/es')

module.exports = (req, res) => {
  const at = moment.tz('2026-01-02 03:04', 'Asia/Kolkata')
  res.json({ ok: true, utc: at.toISOString(), spanish: at.locale('es').format('LLLL'), ago: moment.utc(0).locale('en').from(moment.utc(86_400_000)), week: at.isoWeek() })
}
