'use strict'

// As much of a MongoDB server as one insert and one find need (OP_MSG).
// https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/

const { createServer } = require('node:net')
const { BSON } = require('mongodb')

const OP_MSG = 2013
const OP_QUERY = 2004
const OP_REPLY = 1

const HELLO = {
  isWritablePrimary: true, helloOk: true, maxBsonObjectSize: 16 << 20, maxMessageSizeBytes: 48_000_000, maxWriteBatchSize: 100_000,
  minWireVersion: 0, maxWireVersion: 25, ok: 1,
}

/**
 * @param {string[]} heard gets the names of commands
 * @returns {import('node:net').Server} not listening yet
 */
function mongoServer(heard) {
  const documents = []
  const run = (command, batch) => {
    const [name] = Object.keys(command)
    if (!/^(hello|ismaster|endSessions)$/i.test(name)) heard.push(name)
    switch (name) {
      case 'insert': documents.push(...batch, ...command.documents ?? []); return { n: batch.length + (command.documents?.length ?? 0), ok: 1 }
      case 'find': return {
        cursor: { id: BSON.Long.fromNumber(0), ns: `${command.$db}.${command.find}`, firstBatch: documents.toReversed() }, ok: 1,
      }
      case 'ping': case 'endSessions': return { ok: 1 }
      default: return { ...HELLO, localTime: new Date() }
    }
  }
  return createServer((socket) => {
    let buffer = Buffer.alloc(0)
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      buffer = Buffer.concat([buffer, chunk])
      while (buffer.length >= 16 && buffer.length >= buffer.readInt32LE(0)) {
        const length = buffer.readInt32LE(0)
        receive(buffer.subarray(0, length))
        buffer = buffer.subarray(length)
      }
    })
    function receive(message) {
      const id = message.readInt32LE(4)
      if (message.readInt32LE(12) === OP_QUERY) {
        const name = message.indexOf(0, 20)
        return reply(OP_REPLY, id, Buffer.concat([Buffer.alloc(16), Buffer.from([1, 0, 0, 0])]), run(documentAt(message, name + 9).value))
      }
      let at = 20
      let command
      const batch = []
      while (at < message.length) {
        const kind = message[at++]
        if (kind === 0) {
          const document = documentAt(message, at)
          command = document.value
          at = document.end
          continue
        }
        const end = at + message.readInt32LE(at)
        at = message.indexOf(0, at + 4) + 1
        while (at < end) {
          const document = documentAt(message, at)
          batch.push(document.value)
          at = document.end
        }
      }
      reply(OP_MSG, id, Buffer.alloc(5), run(command, batch))
    }
    function reply(opcode, to, prefix, document) {
      const body = Buffer.concat([prefix, BSON.serialize(document)])
      const head = Buffer.alloc(16)
      for (const [i, value] of [body.length + 16, 0, to, opcode].entries()) head.writeInt32LE(value, 4 * i)
      socket.write(Buffer.concat([head, body]))
    }
  })
}

function documentAt(buffer, at) {
  const end = at + buffer.readInt32LE(at)
  return { value: BSON.deserialize(buffer.subarray(at, end)), end }
}

module.exports = { mongoServer }
