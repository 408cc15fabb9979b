'use strict'

// What a module can find out about where it runs, as text by name, so that two
// processes can be compared. That nothing of the worker shows in the process
// itself is the worker's own test (nodeagent/worker/test/fresh.test.js).

const fs = require('node:fs')
const http = require('node:http')
const Module = require('node:module')
const os = require('node:os')
const path = require('node:path')
const v8 = require('node:v8')

/** @returns {Record<string, string>} */
function facts() {
  const found = {}
  const note = (name, value) => { found[name] = JSON.stringify(value) ?? 'undefined' }

  for (const name of ['execPath', 'execArgv', 'title', 'exitCode', 'platform', 'arch', 'version', 'versions', 'release', 'features', 'noDeprecation', 'throwDeprecation', 'connected']) {
    note(`process.${name}`, process[name])
  }
  note('process.argv', process.argv.map((arg) => path.dirname(arg)))
  note('process.cwd()', process.cwd())
  note('process.umask()', process.umask())
  note('process.ids', [process.getuid(), process.geteuid(), process.getgid(), process.getgroups()])
  note('process.env', Object.entries(process.env).sort())
  note('process.stdin', process.stdin.constructor.name)
  note('process.constrainedMemory()', process.constrainedMemory())
  note('os', [os.hostname(), os.userInfo(), os.homedir(), os.tmpdir(), os.availableParallelism(), os.totalmem(), os.getPriority(), os.release()])
  note('heap limit within the memory', v8.getHeapStatistics().heap_size_limit < process.constrainedMemory())
  note('Module.globalPaths', Module.globalPaths)
  note('module.paths', module.paths)
  note('http', [http.maxHeaderSize, http.globalAgent.keepAlive, http.globalAgent.maxSockets, Object.keys(http.globalAgent.sockets), http.METHODS.length])
  note('limits', fs.readFileSync('/proc/self/limits', 'utf8'))
  note('status', fs.readFileSync('/proc/self/status', 'utf8').split('\n').filter((line) => /^(Cap|NoNewPrivs|Seccomp|Umask|Sig(Blk|Ign))/.test(line)))
  note('files of /', fs.readdirSync('/'))
  note('files of /tmp', fs.readdirSync('/tmp'))
  note('files of /function', fs.readdirSync('/function'))
  return found
}

module.exports = { facts }
