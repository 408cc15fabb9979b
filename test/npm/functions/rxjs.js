'use strict'

const { firstValueFrom, from, interval, of } = require('rxjs')
const { bufferCount, catchError, map, mergeMap, retry, take, toArray } = require('rxjs/operators')

module.exports = async (req, res) => {
  let tries = 0
  const flaky = of(1).pipe(map(() => { if (++tries < 3) throw new Error('again'); return 'third time' }), retry(5), catchError(() => of('never')))
  res.json({
    ok: true, flaky: await firstValueFrom(flaky), ticks: await firstValueFrom(interval(1).pipe(take(3), toArray())),
    pairs: await firstValueFrom(from([1, 2, 3, 4]).pipe(mergeMap(async (n) => n * n), bufferCount(2), toArray())),
  })
}
