// What another function has: files, environment, memory, inter-process
// communication, and traces of it in what all share.
'use strict'
const fs = require('node:fs')
const http = require('node:http')
const { getCompileCacheDir } = require('node:module')
const { Refused, native, nativeBeside, nativeLeft } = require('./attempt.js')

// The secret is looked for in whatever can be read.
function search (secret, files) {
  let refusal = new Refused('NONE', 'nothing to read')
  for (const file of files) {
    try {
      if (fs.readFileSync(file).includes(secret)) return `read the secret in ${file}`
      refusal = new Refused('NONE', 'the secret is not there')
    } catch (error) {
      if (typeof error.code !== 'string') throw error
    }
  }
  throw refusal
}

const processes = () => fs.readdirSync('/proc').filter((name) => Number(name) > 0)

function filesBelow (folder, depth = 4) {
  let entries = []
  try { entries = fs.readdirSync(folder, { withFileTypes: true }) } catch {}
  return entries.flatMap((entry) => {
    const path = `${folder}/${entry.name}`
    if (entry.isDirectory()) return depth > 0 ? filesBelow(path, depth - 1) : []
    return entry.isFile() ? [path] : []
  })
}

// mounted is whatever a pod may have mounted, and a victim has.
const mounted = () => ['/own', '/function', '/data', '/etc', '/run', '/var', '/home', '/opt/sanfran'].flatMap((folder) => filesBelow(folder))

// watch sees whether the victim's opening of files is told here.
function watch (facts, paths) {
  return new Promise((resolve, reject) => {
    const watcher = nativeBeside('watch', ...paths)
    watcher.then(resolve, reject)
    setTimeout(() => http.get(`http://${facts.victim}/touch`, (answer) => answer.resume()).on('error', reject), 200)
  })
}

module.exports = {
  tmp: ({ secret }) => search(secret, [...filesBelow('/tmp'), '/tmp/victim']),
  shm: ({ secret }) => search(secret, [...filesBelow('/dev/shm'), '/dev/shm/victim']),
  bundle: ({ secret }) => search(`${secret}-bundle`, mounted()),
  secret: ({ secret }) => search(`${secret}-secret`, mounted()),
  'empty-dir': ({ secret }) => search(`${secret}-data`, mounted()),
  logs: ({ secret, logs }) => search(`${secret}-log`, ['/var/log', logs, `/proc/1/root${logs}`].flatMap((folder) => filesBelow(folder, 6))),
  environment: ({ secret }) => search(secret, processes().map((pid) => `/proc/${pid}/environ`)),
  commands: ({ secret }) => search(secret, processes().map((pid) => `/proc/${pid}/cmdline`)),
  namespaces: ({ namespaces }) => {
    const shared = Object.keys(namespaces).filter((name) => name !== 'time' && name !== 'time_for_children' && fs.readlinkSync(`/proc/self/ns/${name}`) === namespaces[name])
    if (shared.length > 0) return `shares ${shared} with another function`
    throw new Refused('NONE', 'shares no namespace')
  },
  'shared-memory': () => native('find-shm'),
  'message-queue': () => native('find-queue'),
  'abstract-socket': () => native('find-socket'),
  ptrace: () => native('ptrace'),
  process_vm_readv: () => native('process_vm_readv'),
  kill: () => native('kill'),
  // Files of the root are the same for all: who opens them must not be seen.
  watch: (facts) => watch(facts, ['/usr/local/bin/node', '/opt/sanfran/worker/start.js', '/opt/sanfran/worker', '/etc']),
  'watch-bundle': (facts) => watch(facts, [`${__dirname}/index.js`, __dirname]),
  // What the kernel counts together for all containers; the runner looks whether
  // a neighbour still gets some.
  'take-inotify': () => nativeLeft('take-all', 'inotify'),
  'take-watches': () => nativeLeft('take-all', 'watches'),
  'take-pty': () => nativeLeft('take-all', 'pty'),
  'take-aio': () => nativeLeft('take-all', 'aio'),
  'take-timer': () => nativeLeft('take-all', 'timer'),
  'take-queue': () => nativeLeft('take-all', 'queue'),
  'take-lock': () => nativeLeft('take-all', 'lock'),
  'compile-cache': () => {
    const folder = getCompileCacheDir()
    if (!folder) throw new Refused('NONE', 'the bundle has no compile cache')
    fs.writeFileSync(`${folder}/00000000`, '')
    return `wrote into ${folder}`
  },
}
