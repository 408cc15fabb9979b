// What the container inherits: the listener in the node's network (3), the
// control socket (4), the log (5).
'use strict'
const { native, nativeLeft } = require('./attempt.js')

const by = (name, ...facts) => (given) => {
  for (const fact of facts) if (!given[fact]) throw new Error(`the runner gave no fact ${fact}`)
  return native(name, ...facts.map((fact) => given[fact]))
}

module.exports = {
  'listener-connect': by('listener-connect', 'self', 'beyond'),
  'accepted-connect': by('accepted-connect', 'self', 'beyond'),
  'accepted-connect-agent': by('accepted-connect', 'self', 'agent'),
  'accepted-connect-unassigned': by('accepted-connect', 'self', 'unassigned'),
  'accepted-connect-victim': by('accepted-connect', 'self', 'victim'),
  'accepted-connect-loopback': by('accepted-connect', 'self', 'loopback'),
  'accepted-fast-open': by('accepted-fast-open', 'self', 'beyond'),
  'accepted-source': by('accepted-source', 'self', 'beyond', 'victim'),
  'accepted-device': by('accepted-device', 'self', 'beyond'),
  'steal-port': by('steal-port', 'self', 'socket'),
  'clear-mark': by('clear-mark'),
  'clear-accepted-mark': by('clear-accepted-mark', 'self'),
  transparent: by('transparent'),
  'tcp-repair': by('tcp-repair'),
  'force-buffer': by('force-buffer'),
  'node-namespace': by('node-namespace'),
  'node-interface': by('node-interface'),
  'node-address': by('node-address'),
  // The runner looks who is answered there.
  'listen-wildcard': ({ self, port }) => nativeLeft('accepted-listen', self, `0.0.0.0:${port}`),
  'listen-node': ({ self, nodeIP, port }) => nativeLeft('accepted-listen', self, `${nodeIP}:${port}`),
  'listen-unassigned': ({ self, unassigned, port }) => nativeLeft('accepted-listen', self, `${unassigned.split(':')[0]}:${port}`),
  'listen-victim': ({ self, victim }) => nativeLeft('accepted-listen', self, victim),
  // And whether others get a port of the node.
  'take-ports': ({ self, port }) => nativeLeft('take-ports', self, port),
  'take-ephemeral-ports': ({ self }) => nativeLeft('take-ports', self),
  'control-garbage': by('control-garbage'),
  'control-line': by('control-line'),
  'control-flood': by('control-flood'),
  'control-descriptors': by('control-descriptors'),
  'control-close': by('control-close'),
  'log-garbage': by('log-garbage'),
  'log-read': by('log-read'),
}
