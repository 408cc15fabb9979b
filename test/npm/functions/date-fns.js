'use strict'

const { addMonths, differenceInCalendarDays, format, formatDistance, parseISO } = require('date-fns')
const { fr } = require('date-fns/locale')

module.exports = (req, res) => {
  const at = parseISO('2024-01-31T12:00:00Z')
  res.json({
    ok: true, month: addMonths(at, 1).toISOString(), french: format(at, 'EEEE d MMMM yyyy', { locale: fr }),
    distance: formatDistance(at, addMonths(at, 2), { locale: fr }), days: differenceInCalendarDays(addMonths(at, 1), at),
  })
}
