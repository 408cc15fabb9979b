'use strict'

// Contract 1 beside Express: the same functions, in a worker and in a real
// Express application, give the same bytes to the same requests.

const assert = require('node:assert/strict')
const { spawn } = require('node:child_process')
const { once } = require('node:events')
const net = require('node:net')
const path = require('node:path')
const test = require('node:test')

const { serving, LEASE, NODE_ADDRESS } = require('./container.js')
const requests = require('./express/requests.js')

/** Sends bytes and gives all that comes back, without what no two answers share. */
async function exchange(port, bytes) {
  const socket = net.connect(port, NODE_ADDRESS)
  socket.on('error', () => {}) // an answer may come before all is sent
  let open = ''
  socket.setTimeout(2000, () => {
    open = '[stays open]'
    socket.destroy()
  })
  socket.write(bytes)
  const chunks = []
  socket.on('data', (chunk) => chunks.push(chunk))
  await once(socket, 'close')
  return Buffer.concat(chunks).toString('latin1').replaceAll(/^Date: .*\r$/gm, 'Date: -\r') + open
}

// How a stream is cut into chunks depends on when its pieces came.
function joined(answer) {
  const [head, body] = answer.split(/(?<=\r\n\r\n)(.*)/s)
  if (!head.includes('Transfer-Encoding: chunked')) return answer
  let text = ''
  for (let rest = body; rest !== '';) {
    const [line, length] = /^([0-9a-f]+)\r\n/.exec(rest)
    text += rest.slice(line.length, line.length + parseInt(length, 16))
    rest = rest.slice(line.length + parseInt(length, 16) + 2)
  }
  return head + text
}

test('a function answers as an Express application would, to the byte', async (t) => {
  const reference = spawn(process.execPath, [path.join(__dirname, 'express', 'reference.js')], { stdio: ['ignore', 'pipe', 'ignore'], env: {} })
  t.after(() => reference.kill())
  const expressPort = Number(String((await once(reference.stdout, 'data'))[0]))
  const container = await serving(t, {
    'index.js': `const { handlers, streams } = require(${JSON.stringify(path.join(__dirname, 'express', 'handlers.js'))})
      const functions = { ...handlers, ...streams }
      module.exports = (req, res, next) => functions[req.get('X-Case')](req, res, next)`,
  })
  const differences = []
  let count = 0
  for (const [name, ...cases] of requests) {
    for (const request of cases) {
      count++
      const extra = `X-Case: ${name}\r\n`
      const [express, ours] = await Promise.all([
        exchange(expressPort, request(extra)), exchange(container.port, request(`${extra}Sanfran-Lease: ${LEASE}\r\n`)),
      ])
      if (name === 'pipe' ? joined(ours) !== joined(express) : ours !== express) differences.push(`${name}: ${request('').toString('latin1').slice(0, 300)}\n  Express: ${JSON.stringify(express).slice(0, 900)}\n  ours:    ${JSON.stringify(ours).slice(0, 900)}`)
      assert.doesNotMatch(ours, /\[stays open\]$/, name)
    }
  }
  assert.deepEqual(differences, [], `${differences.length} of ${count}`)
  t.diagnostic(`${count} requests compared`)
})
