package attacks

import "strings"

// An Attack is one thing that a function tries.
type Attack struct {
	// Name is family/attack, as the function has it in its path.
	Name string
	// Aim is what it goes for, Wall what stands in its way.
	Aim, Wall string
	// Refusals are the error codes that show that the wall holds, separated by
	// spaces; any other is looked into by a person. Empty: nothing refuses it, and
	// it has to be contained, which shows in those beside it.
	Refusals string
	// Needs is the fact without which it is not made; empty: none.
	Needs string
	// Once: the function is of no use afterwards.
	Once bool
	// Looks are the addresses at which nobody may be answered by the attacker.
	Looks func(Facts) []string
	// Open says why nothing stands in the way yet, of an attack that succeeds and
	// gains little; docs/isolation.md says so, too.
	Open string
	// Shown: the victim itself succeeds with the same, or the attack proves nothing.
	Shown bool
	// Takes is what it leaves nothing of to others, unless the wall holds.
	Takes string
}

func (a Attack) family() string {
	family, _, _ := strings.Cut(a.Name, "/")
	return family
}

// Walls, as docs/isolation.md explains them.
const (
	wallSeccomp      = "seccomp"
	wallCapabilities = "no capabilities"
	wallUser         = "user namespace, uid nobody"
	wallPID          = "pid namespace"
	wallMount        = "mount namespace"
	wallIPC          = "ipc namespace"
	wallNet          = "network namespace"
	wallReadOnly     = "read-only root"
	wallProc         = "masked and read-only /proc"
	wallCgroup       = "cgroup namespace, read-only"
	wallNodeRules    = "nft table sanfran_network"
	wallMark         = "SO_MARK and nft table sanfran_socket"
	wallLookup       = "BPF sk_lookup, closed by default"
	wallProtocol     = "the agent's protocol checks"
	wallLimits       = "cgroup and tmpfs limits"
	wallShares       = "a share for each container"
	wallSingleUse    = "a container serves one lease (I1)"
	wallNamespaced   = "the cache is the namespace's, read-only"
)

// denied are what the kernel or the filter say to who may not.
const denied = "EPERM EACCES ENOSYS"

func kernel(aim, wall, refusals string, names ...string) []Attack {
	var list []Attack
	for _, name := range names {
		list = append(list, Attack{Name: "kernel/" + name, Aim: aim, Wall: wall, Refusals: refusals})
	}
	return list
}

func files(aim, wall, refusals string, names ...string) []Attack {
	var list []Attack
	for _, name := range names {
		list = append(list, Attack{Name: "files/" + name, Aim: aim, Wall: wall, Refusals: refusals})
	}
	return list
}

// reach is a connection that must not come about to an address of the facts.
func reach(name, needs, aim, wall string) Attack {
	return Attack{Name: "network/" + name, Aim: aim, Wall: wall, Refusals: "ETIMEDOUT ECONNREFUSED EHOSTUNREACH", Needs: needs}
}

// shown is an attack of which the victim shows that there is something to be had.
func shown(name, aim, wall, refusals string) Attack {
	a := neighbour(name, aim, wall, refusals)
	a.Shown = true
	return a
}

func neighbour(name, aim, wall, refusals string) Attack {
	return Attack{Name: "neighbours/" + name, Aim: aim, Wall: wall, Refusals: refusals}
}

// inherited is an attack by one of the descriptors that a container inherits.
func inherited(name, aim, wall, refusals, needs string) Attack {
	return Attack{Name: "descriptors/" + name, Aim: aim, Wall: wall, Refusals: refusals, Needs: needs}
}

// List is every attack but floods and leftovers, in the order in which they are
// made.
func List() []Attack {
	var all []Attack
	for _, part := range [][]Attack{filesAttacks(), kernelAttacks(), networkAttacks(), neighbourAttacks(), descriptorAttacks()} {
		all = append(all, part...)
	}
	return all
}

func filesAttacks() []Attack {
	var all []Attack
	for _, part := range [][]Attack{
		files("the root filesystem that all share", wallReadOnly, "EROFS EACCES EPERM", "root-create", "root-overwrite", "root-remove", "root-rename", "root-chmod", "root-link", "dev"),
		files("the worker", wallReadOnly, "EROFS EACCES", "worker"),
		files("the bundle that others may share", wallReadOnly, "EROFS EACCES", "bundle", "bundle-create"),
		files("who it is, and whom it asks for names", wallReadOnly, "EROFS EACCES", "etc"),
		files("the agent's and the runtime's files and sockets", wallMount, "ENOENT EACCES", "agent-files"),
		files("sockets of the agent, the kubelet, the container runtime", wallMount, "NONE", "sockets"),
		files("disks and memory of the node", wallMount, "NONE", "devices"),
		files("folders left open by the container runtime", wallMount, "NONE", "descriptors"),
		files("programs that make root", wallMount, "NONE", "setuid-programs"),
		files("processes of the node in /proc", wallPID, "NONE", "processes"),
		files("the environment of processes of the node", wallPID, "ENOENT EACCES", "node-environment"),
		files("what the kernel tells of the node", wallProc, "EMPTY EACCES EPERM ENOENT", "kcore", "keys", "timers", "firmware"),
		files("addresses of the kernel", wallCapabilities, "NONE", "kallsyms"),
		files("programs that the kernel runs as root", wallProc, "EROFS EACCES ENOENT", "core_pattern", "modprobe"),
		files("settings of the node's kernel", wallProc, "EROFS EACCES ENOENT", "sysctl", "sysrq"),
		files("never to be chosen by the OOM killer", wallCapabilities, "EACCES EPERM", "oom_score"),
		files("to be root of its user namespace", wallUser, "EPERM EACCES", "id-map"),
		files("memory, disks and devices of the node", wallMount, "ENOENT EACCES", "memory"),
		files("its own limits", wallCgroup, "EROFS EACCES ENOENT", "cgroup-limits"),
		files("another control group", wallCgroup, "EROFS EACCES ENOENT", "cgroup-move", "cgroup-create"),
		files("a program that the kernel runs when a control group is empty", wallCgroup, "EROFS EACCES ENOENT", "cgroup-release-agent"),
	} {
		all = append(all, part...)
	}
	return all
}

func kernelAttacks() []Attack {
	var all []Attack
	for _, part := range [][]Attack{
		kernel("mounts", wallSeccomp, denied, "mount", "fsopen", "open_tree", "bind-mount", "remount-root", "unmask-proc", "unmount-tmp", "pivot_root", "chroot"),
		kernel("namespaces in which it is root", wallSeccomp, denied, "unshare-user", "unshare-mount", "unshare-net", "unshare-cgroup", "clone-user", "clone3-user", "setns"),
		kernel("the filter's blind side", wallSeccomp, denied+" SIGSYS", "unshare-by-int80", "unshare-by-x32", "vsock-by-int80", "af_alg-by-int80"),
		kernel("any file of a filesystem, by its number", wallCapabilities, denied, "open_by_handle_at"),
		kernel("code and events in the kernel", wallSeccomp, denied, "bpf-map", "bpf-program", "perf_event_open", "userfaultfd", "io_uring", "fanotify"),
		kernel("keys of others", wallSeccomp, denied, "keyctl", "add_key"),
		kernel("weaker memory protection", wallSeccomp, denied, "personality"),
		kernel("what the kernel has logged", wallSeccomp, denied, "dmesg"),
		kernel("the machine", wallSeccomp, denied, "kexec", "reboot", "init_module", "swapoff", "acct", "quotactl", "sethostname", "ioperm", "clock_settime", "adjtimex"),
		kernel("devices of its own making", wallCapabilities, denied, "mknod-mem", "mknod-disk"),
		kernel("the terminal of who started the agent", wallMount, denied+" ENXIO ENOTTY ENOENT", "tiocsti"),
		kernel("to be root", wallUser, denied+" EINVAL", "setuid", "setgid", "setgroups", "capset", "setuid-file", "no_new_privs"),
		kernel("to go before others", wallCapabilities, denied, "nice", "realtime", "memlock"),
		kernel("sockets below TCP", wallCapabilities, denied, "raw-socket", "packet-socket"),
		kernel("sockets that no network namespace holds", wallSeccomp, "EPERM", "vsock", "af_alg"),
		kernel("modules of the kernel, by sockets that programs have no use for", wallSeccomp, "EPERM", "socket-families"),
	} {
		all = append(all, part...)
	}
	return all
}

func networkAttacks() []Attack {
	return []Attack{
		reach("agent", "agent", "the agent's port for gateways", wallNodeRules),
		reach("agent-pods", "agentPods", "the agent's port for pods' addresses", wallNodeRules),
		reach("kubelet", "kubelet", "the kubelet of its node", wallNodeRules),
		reach("kubelet-elsewhere", "otherKubelet", "a kubelet of another node", wallNodeRules),
		reach("metadata", "metadata", "credentials of the machine in a cloud", wallNodeRules),
		reach("node-service", "nodeService", "another service of its node", wallNodeRules),
		reach("node-by-bridge", "bridge", "its node, by the bridge's address", wallNodeRules),
		reach("container-of-another", "container", "another container, by its own network", wallNodeRules),
		reach("socket-of-another", "socket", "another container's listener, past its pod's address", wallNodeRules),
		reach("no-function", "unassigned", "services of the node at a function's address that is nobody's", wallLookup),
		reach("no-function-udp", "datagrams", "the same by UDP", wallLookup),
		{Name: "network/api-server", Aim: "the API server, without credentials", Wall: "the API server itself", Refusals: "HTTP401 HTTP403 ETIMEDOUT ECONNREFUSED", Needs: "apiServer"},
		{Name: "network/lease", Aim: "another function's nonce, with a guessed lease", Wall: "random leases, stripped headers (I2)", Refusals: "NONE"},
		{Name: "network/set-address", Aim: "to speak for another container", Wall: wallCapabilities, Refusals: denied},
		{Name: "network/nftables", Aim: "rules of its network", Wall: wallCapabilities, Refusals: denied},
	}
}

func neighbourAttacks() []Attack {
	takes := func(what, aim string) Attack {
		return Attack{Name: "neighbours/take-" + what, Aim: aim, Wall: wallShares, Once: true, Takes: what}
	}
	return []Attack{
		takes("inotify", "inotify instances, which are counted for all containers together"),
		takes("watches", "what inotify watches, which is"),
		takes("pty", "terminals, which are"),
		{Name: "neighbours/take-aio", Aim: "requests of asynchronous I/O, which are", Wall: wallSeccomp, Once: true, Takes: "aio"},
		takes("timer", "queued signals, which are"),
		takes("queue", "bytes of message queues, which are"),
		takes("lock", "locked memory, which is"),
		shown("tmp", "another's /tmp", wallMount, "NONE"),
		shown("shm", "another's /dev/shm", wallMount, "NONE"),
		shown("bundle", "another's bundle", wallMount, "NONE"),
		shown("secret", "another's Secrets", wallMount, "NONE"),
		shown("empty-dir", "another's emptyDirs", wallMount, "NONE"),
		neighbour("logs", "another's logs", wallMount, "NONE"),
		shown("environment", "another's environment", wallPID, "NONE"),
		shown("commands", "another's command lines", wallPID, "NONE"),
		shown("namespaces", "a namespace shared with another", "namespaces of its own", "NONE"),
		shown("shared-memory", "another's System V shared memory", wallIPC, "ENOENT"),
		shown("message-queue", "another's message queue", wallIPC, "ENOENT"),
		shown("abstract-socket", "another's abstract unix socket", wallNet, "ECONNREFUSED"),
		neighbour("ptrace", "to trace another's processes", wallPID, "ESRCH EPERM"),
		neighbour("process_vm_readv", "another's memory", wallPID, "ESRCH EPERM"),
		neighbour("kill", "to signal another's processes", wallPID, "ESRCH EPERM"),
		shown("watch", "when another opens files of the shared root", "an overlay of its own", "NONE"),
		shown("watch-bundle", "when another opens files of a bundle that both have", "files of its namespace's own", "NONE"),
		neighbour("compile-cache", "to plant code in the compile cache", wallNamespaced, "EROFS EACCES"),
	}
}

// opensPorts: no rule of nftables sees a port being taken, and a filter of system
// calls does not see whose network a socket is of.
const opensPorts = "an accepted socket that was disconnected may have any port of the node from 1024 on; nobody is answered there, and nobody else gets it"

func descriptorAttacks() []Attack {
	const nowhere = "ETIMEDOUT ECONNREFUSED EHOSTUNREACH EINPROGRESS EAGAIN"
	all := []Attack{
		inherited("accepted-connect", "a connection of the node's network, by an accepted socket", wallMark, nowhere, "beyond"),
		inherited("accepted-connect-agent", "the same, to the agent", wallMark, nowhere, "agent"),
		inherited("accepted-connect-unassigned", "the same, to an address of no function", wallMark, nowhere, "unassigned"),
		inherited("accepted-connect-victim", "the same, to another function, as the node", wallMark, nowhere, ""),
		inherited("accepted-connect-loopback", "the same, to the node's loopback", wallMark, nowhere, "loopback"),
		inherited("accepted-fast-open", "the same, with data in the first segment", wallMark, nowhere+" EOPNOTSUPP", "beyond"),
		inherited("accepted-source", "the same, from another function's address", wallMark, nowhere, "beyond"),
		inherited("accepted-device", "the same, by a chosen interface", wallMark, nowhere+" EPERM", "beyond"),
		inherited("steal-port", "another container's port", "the port is taken until it has rested", "EADDRINUSE EACCES", ""),
		inherited("clear-mark", "the listener without its mark", wallCapabilities, "EPERM", ""),
		inherited("clear-accepted-mark", "an accepted socket without its mark", wallCapabilities, "EPERM", ""),
		inherited("transparent", "addresses that are not the node's", wallCapabilities, "EPERM", ""),
		inherited("tcp-repair", "connections out of nothing", wallCapabilities, "EPERM", ""),
		inherited("force-buffer", "memory of the kernel", wallCapabilities, "EPERM", ""),
		inherited("node-namespace", "the node's network namespace, by the listener", wallCapabilities, "EPERM", ""),
		inherited("node-interface", "interfaces of the node, by the listener", wallCapabilities, "EPERM", ""),
		inherited("node-address", "addresses of the node, by the listener", wallCapabilities, "EPERM", ""),
		inherited("log-read", "what others write into the log", "the reading end is the agent's", "EBADF", ""),
	}
	listens := func(name, aim string, looks func(Facts) []string) Attack {
		return Attack{Name: "descriptors/" + name, Aim: aim, Wall: wallMark, Once: true, Looks: looks}
	}
	once := func(name, aim, wall, refusals string) Attack {
		return Attack{Name: "descriptors/" + name, Aim: aim, Wall: wall, Refusals: refusals, Once: true}
	}
	return append(all,
		Attack{Name: "descriptors/listener-connect", Aim: "a connection of the node's network, by the listener", Wall: wallMark, Refusals: nowhere, Needs: "beyond", Once: true},
		listens("listen-wildcard", "a service of its own on every address of the node", func(f Facts) []string {
			return []string{f.NodeIP + ":" + f.Port, host(f.Unassigned) + ":" + f.Port, host(f.Victim) + ":" + f.Port}
		}),
		listens("listen-node", "a service of its own on the node", func(f Facts) []string { return []string{f.NodeIP + ":" + f.Port} }),
		listens("listen-unassigned", "a service at an address of no function", func(f Facts) []string { return []string{host(f.Unassigned) + ":" + f.Port} }),
		listens("listen-victim", "another function's address", func(f Facts) []string { return []string{f.Victim} }),
		Attack{Name: "descriptors/take-ports", Aim: "TCP ports of the node that somebody needs", Wall: "nothing: see what is not hidden", Once: true, Takes: "port", Open: opensPorts},
		Attack{Name: "descriptors/take-ephemeral-ports", Aim: "those that the kernel gives out", Wall: "nothing: see what is not hidden", Once: true, Open: opensPorts},
		once("control-garbage", "the agent's process, by garbage", wallProtocol, ""),
		once("control-line", "the agent's memory, by a line without an end", wallProtocol, ""),
		once("control-flood", "the agent's time, by a flood of messages", wallProtocol, ""),
		once("control-descriptors", "the agent's descriptors, by handing it some", wallProtocol, ""),
		once("control-close", "to be forgotten by the agent", wallProtocol, ""),
		once("log-garbage", "others' logs, by frames that are none", wallProtocol, ""),
	)
}

// Floods is what eats, in the order in which it is run. Where a code is given,
// the flood has to meet a limit: it is refused, or its container ended.
func Floods() []Attack {
	flood := func(name, aim, refusals string) Attack {
		return Attack{Name: "floods/" + name, Aim: aim, Wall: wallLimits, Refusals: refusals, Once: true}
	}
	return []Attack{
		flood("fork", "process ids, by a fork bomb", "EAGAIN"),
		flood("cpu", "processors", ""),
		flood("memory", "memory", "ENOMEM ERR_MEMORY_ALLOCATION_FAILED"),
		flood("descriptors", "file descriptors", "EMFILE"),
		flood("disk", "memory, by /tmp", "ENOSPC"),
		flood("logs", "the disk, by endless logs", ""),
		flood("connections", "the connection tracker, by a flood of connections", ""),
	}
}
