'use strict'

const { DateTime, Duration, Interval } = require('luxon')

module.exports = (req, res) => {
  const at = DateTime.fromISO('2026-07-01T12:00', { zone: 'America/New_York' })
  res.json({
    ok: true, utc: at.toUTC().toISO(), offset: at.offset, japanese: at.setLocale('ja').toLocaleString(DateTime.DATE_FULL), zone: at.offsetNameLong,
    duration: Duration.fromObject({ minutes: 90 }).shiftTo('hours', 'minutes').toHuman(), days: Interval.after(at, { weeks: 2 }).length('days'),
    local: DateTime.local().zoneName, wrong: DateTime.fromISO('2026-13-01').invalidReason,
  })
}
