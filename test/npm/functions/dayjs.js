'use strict'

const dayjs = require('dayjs')
require('dayjs/locale/de')
dayjs.extend(require('dayjs/plugin/utc'))
dayjs.extend(require('dayjs/plugin/timezone'))
dayjs.extend(require('dayjs/plugin/relativeTime'))

module.exports = (req, res) => {
  const at = dayjs.utc('2026-03-29T00:30:00Z')
  res.json({
    ok: true, berlin: at.tz('Europe/Berlin').format(), later: at.tz('Europe/Berlin').add(1, 'hour').format(), tokyo: at.tz('Asia/Tokyo').format('YYYY-MM-DD HH:mm Z'),
    german: at.locale('de').format('dddd, D. MMMM YYYY'), relative: at.locale('de').from(at.add(3, 'day')), local: dayjs(0).format(),
  })
}
