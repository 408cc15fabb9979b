import { createSchema, createYoga } from 'graphql-yoga'

const yoga = createYoga({
  logging: false,
  graphqlEndpoint: '/',
  schema: createSchema({
    typeDefs: 'type Query { hello(name: String!): String! fail: Int } type Mutation { pour(cups: Int!): Int! }',
    resolvers: {
      Query: { hello: (_, { name }, { request }) => `Hello ${name} by ${request.method}`, fail: () => { throw new Error('hidden') } },
      Mutation: { pour: (_, { cups }) => cups + 1 },
    },
  }),
})

// A fetch handler by itself, whose Response is not of Node.js.
export default yoga
