// Connections that must not come about. The runner says where somebody listens.
'use strict'
const dgram = require('node:dgram')
const http = require('node:http')
const https = require('node:https')
const { Refused, connect, native } = require('./attempt.js')

const to = (fact) => (facts) => {
  if (!facts[fact]) throw new Error(`the runner gave no fact ${fact}`)
  return connect(facts[fact])
}

function datagram (address) {
  const [host, port] = address.split(':')
  return new Promise((resolve, reject) => {
    const socket = dgram.createSocket('udp4')
    const end = (settle, what) => { clearTimeout(timer); socket.close(); settle(what) }
    const timer = setTimeout(() => end(reject, new Refused('ETIMEDOUT', address)), 1000)
    socket.on('message', () => end(resolve, `an answer of ${address}`))
    socket.on('error', (error) => end(reject, error))
    socket.connect(Number(port), host, (error) => { if (error) end(reject, error); else socket.send('sanfran') })
  })
}

module.exports = {
  // Not an attack: what is attacked elsewhere can be reached as it should be.
  beyond: to('beyond'),
  'beyond-udp': (facts) => datagram(facts.beyond),
  agent: to('agent'),
  'agent-pods': to('agentPods'),
  kubelet: to('kubelet'),
  'kubelet-elsewhere': to('otherKubelet'),
  metadata: to('metadata'),
  'node-service': to('nodeService'),
  'node-by-bridge': to('bridge'),
  'container-of-another': to('container'),
  'socket-of-another': to('socket'),
  'no-function': to('unassigned'),
  'no-function-udp': (facts) => datagram(facts.datagrams),
  // Anonymous: what is read without credentials must be nothing of the cluster's.
  'api-server': (facts) => new Promise((resolve, reject) => {
    const request = https.get(`https://${facts.apiServer}/api/v1/secrets`, { rejectUnauthorized: false, timeout: 2000 }, (answer) => {
      answer.resume()
      if (answer.statusCode < 400) resolve(`read Secrets with status ${answer.statusCode}`)
      else reject(new Refused(`HTTP${answer.statusCode}`, 'secrets'))
    })
    request.on('timeout', () => request.destroy(new Refused('ETIMEDOUT', facts.apiServer)))
    request.on('error', reject)
  }),
  // Another function's lease, guessed: it is asked at its own address for it.
  lease: (facts) => new Promise((resolve, reject) => {
    http.get(`http://${facts.victim}/intact?secret=x`, { headers: { 'Sanfran-Lease': 'guessed' } }, (answer) => {
      answer.resume()
      if (answer.headers['sanfran-refused']) resolve('was told the nonce')
      else reject(new Refused('NONE', `the nonce is not told (HTTP ${answer.statusCode})`))
    }).on('error', reject)
  }),
  'set-address': () => native('set-address'),
  nftables: () => native('nftables'),
}
