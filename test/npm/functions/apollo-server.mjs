import { ApolloServer, HeaderMap } from '@apollo/server'

const server = new ApolloServer({
  typeDefs: 'type Query { hello(name: String!): String! } type Mutation { pour(cups: Int!): Int! }',
  resolvers: { Query: { hello: (_, { name }, { token }) => `Hello ${name} with ${token}` }, Mutation: { pour: (_, { cups }) => cups + 1 } },
})
server.startInBackgroundHandlingStartupErrorsByLoggingAndFailingAllRequests()

// As the integrations for web frameworks do it.
export default async function (req, res) {
  const headers = new HeaderMap()
  for (const [name, value] of Object.entries(req.headers)) headers.set(name, String(value))
  const answer = await server.executeHTTPGraphQLRequest({
    httpGraphQLRequest: { method: req.method, headers, search: new URL(req.url, 'http://host').search, body: req.body },
    context: async () => ({ token: req.get('authorization') }),
  })
  for (const [name, value] of answer.headers) res.setHeader(name, value)
  res.status(answer.status ?? 200)
  if (answer.body.kind === 'complete') return res.send(answer.body.string)
  for await (const chunk of answer.body.asyncIterator) res.write(chunk)
  res.end()
}
