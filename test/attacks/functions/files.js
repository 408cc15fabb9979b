// Files of the root filesystem, of the agent, of the node and of /proc and /sys.
'use strict'
const fs = require('node:fs')
const { Refused } = require('./attempt.js')

// overwrite opens without truncating and writes nothing: to be let in is enough.
function overwrite (file) {
  fs.closeSync(fs.openSync(file, 'r+'))
  return `may write ${file}`
}

function create (file) {
  fs.writeFileSync(file, '')
  return `made ${file}`
}

function readText (file) {
  const text = fs.readFileSync(file, 'latin1')
  if (text === '') throw new Refused('EMPTY', `${file} is empty`)
  return `read ${text.length} bytes of ${file}`
}

// every makes an attack on several files; one success is one too many.
function every (attack, files) {
  let refusal
  for (const file of files) {
    try { return attack(file) } catch (error) { refusal = error }
  }
  throw refusal
}

// mounts says where the root's layers and other mounts are on the node: the
// kernel tells everybody.
function nodePaths () {
  const found = new Set(['/run/sanfran/containers', '/run/sanfran/pods', '/run/sanfran/bundles', '/run/sanfran/netns', '/var/lib/sanfran', '/run/containerd/containerd.sock', '/var/run/docker.sock', '/run/crio/crio.sock', '/var/lib/kubelet', '/etc/kubernetes', '/sys/fs/bpf/sanfran'])
  for (const [, path] of fs.readFileSync('/proc/self/mountinfo', 'utf8').matchAll(/(?:upperdir|lowerdir|workdir)=([^,\s]+)/g)) found.add(path)
  return [...found]
}

// found are the paths below a folder that look like something.
function * walk (folder, depth) {
  let entries
  try { entries = fs.readdirSync(folder, { withFileTypes: true }) } catch { return }
  for (const entry of entries) {
    const path = `${folder === '/' ? '' : folder}/${entry.name}`
    yield [path, entry]
    if (entry.isDirectory() && depth > 0 && path !== '/proc') yield * walk(path, depth - 1)
  }
}

const pids = () => fs.readdirSync('/proc').filter((name) => Number(name) > 0)

module.exports = {
  'root-create': () => create('/attack'),
  'root-overwrite': () => overwrite('/usr/local/bin/node'),
  'root-remove': () => { fs.unlinkSync('/usr/local/bin/node'); return 'removed node' },
  'root-rename': () => { fs.renameSync('/usr', '/rsu'); return 'renamed /usr' },
  'root-chmod': () => { fs.chmodSync('/usr/local/bin/node', 0o777); return 'changed the mode of node' },
  'root-link': () => { fs.linkSync('/usr/local/bin/node', '/usr/local/bin/node2'); return 'linked node' },
  worker: () => every(overwrite, fs.readdirSync('/opt/sanfran/worker', { withFileTypes: true }).filter((entry) => entry.isFile()).map(({ name }) => `/opt/sanfran/worker/${name}`)),
  bundle: () => overwrite(`${__dirname}/index.js`),
  'bundle-create': () => create(`${__dirname}/attack.js`),
  etc: () => every(overwrite, ['/etc/hosts', '/etc/resolv.conf', '/etc/hostname', '/etc/passwd']),
  dev: () => create('/dev/attack'),

  // By names of the node, by climbing, and by other roots.
  'agent-files': () => every((path) => fs.readdirSync(path).join(), nodePaths().flatMap((path) => [path, `/../..${path}`, `/proc/1/root${path}`, `/proc/self/cwd/../../../..${path}`])),
  sockets: () => {
    for (const [path, entry] of walk('/', 6)) if (entry.isSocket()) return `found the socket ${path}`
    const abstract = fs.readFileSync('/proc/net/unix', 'utf8').split('\n').filter((line) => line.includes('@') && !line.includes('@sanfran-victim'))
    if (abstract.length > 0) return `sees ${abstract.length} abstract sockets`
    throw new Refused('NONE', 'no socket of anybody')
  },
  devices: () => {
    const usual = new Set(['null', 'zero', 'full', 'random', 'urandom', 'tty', 'ptmx', 'console'].map((name) => `/dev/${name}`))
    for (const [path, entry] of walk('/', 6)) {
      if ((entry.isBlockDevice() || entry.isCharacterDevice()) && !usual.has(path) && !path.startsWith('/dev/pts/') && !path.startsWith('/proc/')) {
        // A masked file is /dev/null.
        return `found the device ${path}`
      }
    }
    throw new Refused('NONE', 'no device but the usual')
  },
  descriptors: () => {
    for (const fd of fs.readdirSync('/proc/self/fd')) {
      let target
      try { target = fs.readlinkSync(`/proc/self/fd/${fd}`) } catch { continue }
      const known = /^(?:\/dev\/(?:null|urandom|random|pts\/\d+)|(?:socket|pipe|anon_inode):.*|\/proc\/\d+\/fd.*)$/.test(target)
      if (!known && !fs.existsSync(target)) return `descriptor ${fd} leads to ${target}`
      if (!known && fs.statSync(target).isDirectory()) return `descriptor ${fd} is the folder ${target}`
    }
    throw new Refused('NONE', 'no descriptor that leads out')
  },
  'setuid-programs': () => {
    for (const [path, entry] of walk('/', 6)) if (entry.isFile() && !path.startsWith('/tmp/') && (fs.lstatSync(path).mode & 0o6000)) return `found ${path}`
    throw new Refused('NONE', 'no setuid program')
  },

  processes: () => {
    // The container's own are the worker and whatever it started.
    const parent = (pid) => { try { return Number(/^PPid:\t(\d+)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))[1]) } catch { return process.pid } }
    const own = (pid) => { while (pid > 0 && pid !== process.pid) pid = parent(pid); return pid > 0 }
    const strangers = pids().filter((pid) => !own(Number(pid)))
    if (strangers.length > 0) return `sees processes ${strangers} of others`
    throw new Refused('NONE', `sees its own ${pids().length} processes`)
  },
  'node-environment': () => every(readText, ['/proc/2/environ', '/proc/1000/environ', '/proc/self/task/../../0/environ']),
  kcore: () => readText('/proc/kcore'),
  keys: () => readText('/proc/keys'),
  timers: () => every(readText, ['/proc/timer_list', '/proc/sched_debug', '/proc/interrupts']),
  firmware: () => every((path) => fs.readdirSync(path).join() || (() => { throw new Refused('EMPTY', path) })(), ['/sys/firmware', '/proc/acpi', '/proc/scsi', '/sys/class', '/sys/kernel']),
  kallsyms: () => {
    if (/^0*[1-9a-f]\d* /m.test(fs.readFileSync('/proc/kallsyms', 'latin1').slice(0, 100_000).replace(/^0+ .*$/gm, ''))) return 'read addresses of the kernel'
    throw new Refused('NONE', 'addresses are hidden')
  },
  core_pattern: () => overwrite('/proc/sys/kernel/core_pattern'),
  modprobe: () => every(overwrite, ['/proc/sys/kernel/modprobe', '/proc/sys/kernel/hotplug', '/proc/sys/vm/panic_on_oom', '/proc/sys/fs/binfmt_misc/register']),
  sysctl: () => every(overwrite, ['/proc/sys/net/ipv4/ip_forward', '/proc/sys/kernel/pid_max', '/proc/sys/kernel/shmmax']),
  sysrq: () => overwrite('/proc/sysrq-trigger'),
  oom_score: () => { fs.writeFileSync('/proc/self/oom_score_adj', '-1000'); return 'is never killed' },
  'id-map': () => { fs.writeFileSync('/proc/self/uid_map', '0 0 1'); return 'mapped itself to root' },
  memory: () => every(overwrite, ['/dev/mem', '/dev/kmem', '/dev/port', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/fuse', '/dev/kvm', '/dev/net/tun', '/dev/loop-control']),

  'cgroup-limits': () => every(overwrite, ['memory/memory.limit_in_bytes', 'cpu/cpu.cfs_quota_us', 'pids/pids.max', 'memory.max', 'cpu.max', 'pids.max'].map((name) => `/sys/fs/cgroup/${name}`)),
  'cgroup-move': () => every(overwrite, ['memory/cgroup.procs', 'pids/cgroup.procs', 'cgroup.procs', 'memory/../cgroup.procs'].map((name) => `/sys/fs/cgroup/${name}`)),
  'cgroup-create': () => every((path) => { fs.mkdirSync(path); return `made ${path}` }, ['/sys/fs/cgroup/memory/attack', '/sys/fs/cgroup/attack', '/sys/fs/cgroup/pids/attack']),
  'cgroup-release-agent': () => every(overwrite, ['memory', 'pids', 'cpu', 'rdma', 'devices', 'freezer', ''].map((name) => `/sys/fs/cgroup/${name}/release_agent`)),
}
