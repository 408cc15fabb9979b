'use strict'

const { buildSchema, graphql, parse, print, subscribe, validate } = require('graphql')

const schema = buildSchema('type Tea { name: String! cups(of: Int = 1): Int } type Query { teas: [Tea!]! } type Subscription { poured: Int }')

module.exports = async (req, res) => {
  const rootValue = { teas: () => [{ name: 'assam', cups: ({ of }) => 2 * of }], poured: async function * () { yield { poured: 1 }; yield { poured: 2 } } }
  const answer = await graphql({ schema, rootValue, source: 'query ($n: Int) { teas { name cups(of: $n) } }', variableValues: { n: 3 } })
  const poured = []
  for await (const { data } of await subscribe({ schema, rootValue, document: parse('subscription { poured }') })) poured.push(data.poured)
  res.json({ ok: true, data: answer.data, wrong: validate(schema, parse('{ coffee }')).map(({ message }) => message), poured, printed: print(parse('{teas{name}}')) })
}
