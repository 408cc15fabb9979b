'use strict'

// A request that is refused is nobody's: Node's diagnostics channels, by which
// monitoring libraries hear of the requests of HTTP servers, do not tell of it.
// Their subscribers are function code, and its answer carries the nonce.

const diagnostics = require('node:diagnostics_channel')
const http = require('node:http')

const { apply } = Reflect
const { defineProperty, getOwnPropertyDescriptor } = Object
const { emit } = http.ServerResponse.prototype

const channels = [
  diagnostics.channel('http.server.request.start'),
  diagnostics.channel('http.server.response.created'),
  diagnostics.channel('http.server.response.finish'),
]

/** Whether anyone hears what Node tells of requests. */
const isHeard = () => channels[0].hasSubscribers || channels[1].hasSubscribers || channels[2].hasSubscribers

const silent = { value: () => {}, configurable: true, writable: true }

/** Runs a call of Node's HTTP code, of which nothing is told. */
function unseen(call) {
  if (!isHeard()) return call()
  const before = channels.map((channel) => getOwnPropertyDescriptor(channel, 'publish'))
  for (let i = 0; i < channels.length; i++) defineProperty(channels[i], 'publish', silent)
  try {
    return call()
  } finally {
    for (let i = 0; i < channels.length; i++) {
      if (before[i] === undefined) delete channels[i].publish
      else defineProperty(channels[i], 'publish', before[i])
    }
  }
}

/** Has nothing told of a response's end. */
function endUnseen(res) {
  if (!isHeard()) return
  const value = function (...args) {
    return args[0] === 'finish' ? unseen(() => apply(emit, this, args)) : apply(emit, this, args)
  }
  defineProperty(res, 'emit', { value, configurable: true, writable: true })
}

module.exports = { endUnseen, isHeard, unseen }
