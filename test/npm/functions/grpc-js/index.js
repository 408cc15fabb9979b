'use strict'

const { join } = require('node:path')
const grpc = require('@grpc/grpc-js')
const { loadSync } = require('@grpc/proto-loader')

const { Teas } = grpc.loadPackageDefinition(loadSync(join(__dirname, 'teas.proto'), { keepCase: true })).shop

module.exports = async (req, res) => {
  const server = new grpc.Server()
  server.addService(Teas.service, {
    order: ({ request, metadata }, done) => request.cups > 9
      ? done({ code: grpc.status.RESOURCE_EXHAUSTED, details: 'no more cups' })
      : done(null, { text: `${request.cups} × ${request.name} for ${metadata.get('user')[0]}` }),
    pour: (call) => {
      for (let n = 1; n <= call.request.cups; n++) call.write({ text: `cup ${n}` })
      call.end()
    },
  })
  const port = await new Promise((resolve, reject) => server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, port) => error ? reject(error) : resolve(port)))
  const client = new Teas(`127.0.0.1:${port}`, grpc.credentials.createInsecure())
  const metadata = new grpc.Metadata()
  metadata.set('user', 'vik')
  const order = (request) => new Promise((resolve) => client.order(request, metadata, (error, answer) => resolve(error ? [error.code, error.details] : answer.text)))
  const answers = [await order({ name: 'assam', cups: 2 }), await order({ name: 'assam', cups: 10 })]
  const poured = []
  for await (const { text } of client.pour({ cups: 3 })) poured.push(text)
  client.close()
  await new Promise((resolve) => server.tryShutdown(resolve))
  res.json({ ok: true, answers, poured })
}
