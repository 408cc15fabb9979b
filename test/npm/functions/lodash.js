'use strict'

const _ = require('lodash')

module.exports = (req, res) => {
  const teas = [{ name: 'assam', kind: 'black', cups: 2 }, { name: 'ceylon', kind: 'black', cups: 1 }, { name: 'oolong', kind: 'blue', cups: 5 }]
  res.json({
    ok: true, sums: _(teas).groupBy('kind').mapValues((list) => _.sumBy(list, 'cups')).value(), deep: _.get({ a: [{ b: 3 }] }, 'a[0].b'),
    merged: _.merge({ a: { b: 1 } }, { a: { c: 2 } }), cases: [_.camelCase('hello big world'), _.kebabCase('helloWorld')],
    template: _.template('Hi <%= name %>')({ name: 'Vik' }), chunk: _.chunk([1, 2, 3], 2), equal: _.isEqual({ a: new Date(1) }, { a: new Date(1) }),
  })
}
