package container

import (
	"fmt"
	"slices"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// idRange is how many user ids a container has of its own: the whole of the
// 16-bit range, so that every id a root filesystem may name exists inside.
const idRange = 1 << 16

// cpuPeriod is the length in microseconds of the period that a processor
// quota is counted in: the kernel's own default.
const cpuPeriod = 100_000

// warmShares is the processor weight of a container that has no limit yet. It
// is a tenth of one processor's, so that containers being warmed give way to
// those that serve, and get the whole machine when it is idle.
const warmShares = 102

// specInput is everything that an OCI spec is made of. The same input gives
// the same spec.
type specInput struct {
	Config       Config
	Root         string // the mounted overlay
	CgroupsPath  string
	HostID       uint32 // the first of idRange host ids that are the container's
	OOMScoreAdj  int
	OpenFiles    uint64 // RLIMIT_NOFILE, at most the agent's own
	PidsLimit    int64
	TmpBytes     int64
	SwapAccount  bool // the kernel can limit memory and swap together
	Seccomp      *specs.LinuxSeccomp
	SetsShares   bool // the OCI runtime sets sysctls of the user namespace
	DefaultLimit Resources
}

// ociSpec returns the OCI runtime's description of a container: its own
// namespaces, an unprivileged user without capabilities, a root it cannot
// write, and limits. There is no sysfs: a network namespace that the host owns
// does not allow one to be mounted. Of /sys there is what programs read to know
// their limits: the container's own control groups, as the kernel shows them to it.
func ociSpec(in specInput) *specs.Spec {
	cfg := in.Config
	hostname := cfg.Hostname
	if hostname == "" {
		hostname = cfg.ID
	}
	spec := &specs.Spec{
		Version:  "1.0.2",
		Hostname: hostname,
		Root:     &specs.Root{Path: in.Root, Readonly: true},
		Process:  processSpec(cfg.Args, cfg.Env, in.OOMScoreAdj, in.OpenFiles),
		Mounts:   specMounts(in.TmpBytes),
		Linux: &specs.Linux{
			UIDMappings:       []specs.LinuxIDMapping{{ContainerID: 0, HostID: in.HostID, Size: idRange}},
			GIDMappings:       []specs.LinuxIDMapping{{ContainerID: 0, HostID: in.HostID, Size: idRange}},
			Namespaces:        specNamespaces(cfg.NetNS),
			CgroupsPath:       in.CgroupsPath,
			Resources:         specResources(cfg.Resources.or(in.DefaultLimit), in.PidsLimit, in.SwapAccount),
			RootfsPropagation: "rslave", // what Mount binds under the root later comes in, nothing goes out
			Seccomp:           in.Seccomp,
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
				"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	giveShares(spec, in.Root, in.SetsShares)
	return spec
}

// processSpec is every process of a container: an unprivileged user without
// capabilities, who cannot gain any. Its queued signals are limited otherwise, see
// limitSignals.
func processSpec(args, env []string, oomScoreAdj int, openFiles uint64) *specs.Process {
	return &specs.Process{
		User: specs.User{UID: UserID, GID: UserID},
		Args: args,
		Env:  env,
		Cwd:  "/",
		// An empty set of each kind, not an absent one, which would
		// leave what the runtime itself has.
		Capabilities:    &specs.LinuxCapabilities{},
		NoNewPrivileges: true,
		OOMScoreAdj:     &oomScoreAdj,
		Rlimits: []specs.POSIXRlimit{
			{Type: "RLIMIT_CORE"},
			{Type: "RLIMIT_MSGQUEUE", Hard: messageQueueBytes, Soft: messageQueueBytes},
			{Type: "RLIMIT_NOFILE", Hard: openFiles, Soft: openFiles},
		},
	}
}

func specMounts(tmpBytes int64) []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "tmpfs", Source: "sys", Options: []string{"nosuid", "noexec", "nodev", "mode=755", "size=64k", "ro"}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=64k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", fmt.Sprintf("max=%d", terminals)}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", tmpBytes)}},
		{Destination: "/tmp", Type: "tmpfs", Source: "tmp", Options: []string{"nosuid", "nodev", "mode=1777", fmt.Sprintf("size=%d", tmpBytes)}},
	}
}

func specNamespaces(netNS string) []specs.LinuxNamespace {
	return []specs.LinuxNamespace{
		{Type: specs.UserNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.PIDNamespace},
		{Type: specs.NetworkNamespace, Path: netNS},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.CgroupNamespace},
	}
}

func specResources(r Resources, pids int64, swapAccount bool) *specs.LinuxResources {
	cpu := &specs.LinuxCPU{Shares: new(uint64(warmShares))}
	if r.MilliCPU > 0 {
		cpu = &specs.LinuxCPU{
			Shares: new(cpuShares(r.MilliCPU)),
			Period: new(uint64(cpuPeriod)),
			Quota:  new(cpuQuota(r.MilliCPU)),
		}
	}
	var memory *specs.LinuxMemory
	if r.MemoryBytes > 0 {
		memory = &specs.LinuxMemory{Limit: &r.MemoryBytes}
		if swapAccount {
			memory.Swap = &r.MemoryBytes // memory and swap together: no swap
		}
	}
	return &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}, // the runtime adds null, zero, random & co.
		CPU:     cpu,
		Memory:  memory,
		Pids:    &specs.LinuxPids{Limit: &pids},
	}
}

// or returns r with its zero fields taken from defaults.
func (r Resources) or(defaults Resources) Resources {
	if r.MilliCPU == 0 {
		r.MilliCPU = defaults.MilliCPU
	}
	if r.MemoryBytes == 0 {
		r.MemoryBytes = defaults.MemoryBytes
	}
	return r
}

// cpuShares is the relative weight of milliCPU in cgroup v1's terms, where
// 1024 is one processor and 2 the least.
func cpuShares(milliCPU int64) uint64 { return max(2, uint64(milliCPU)*1024/1000) }

// cpuQuota is how many microseconds of each cpuPeriod milliCPU may run.
func cpuQuota(milliCPU int64) int64 { return milliCPU * cpuPeriod / 1000 }

// socketFamilies are those that functions may open: what programs use. Others
// load modules of the kernel, and some, such as vsock, know no network namespace.
var socketFamilies = []uint64{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// asynchronousIO are the system calls of an older way than io_uring, which is
// refused as well. Of its requests fs.aio-max-nr is for the whole machine, 65,536,
// whoever makes them. Node.js has no use for it.
var asynchronousIO = []string{"io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64"}

// seccompProfile returns the filter of system calls that container engines
// commonly apply, as it is for a process without capabilities on this kernel,
// and narrower in three points. No asynchronousIO. Only the machine's own system calls are there, not
// those for 32-bit programs, where the filter cannot see which socket
// socketcall(2) makes; and only socketFamilies.
func seccompProfile() (*specs.LinuxSeccomp, error) {
	profile, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		return nil, fmt.Errorf("default seccomp profile for this kernel: %w", err)
	}
	// The first is the machine's own. The filter kills a process that enters the
	// kernel by another.
	profile.Architectures = profile.Architectures[:min(1, len(profile.Architectures))]
	var calls []specs.LinuxSyscall
	for _, call := range profile.Syscalls {
		call.Names = slices.DeleteFunc(slices.Clone(call.Names), func(name string) bool {
			return name == "socket" || name == "socketcall" || slices.Contains(asynchronousIO, name)
		})
		if len(call.Names) > 0 {
			calls = append(calls, call)
		}
	}
	for _, family := range socketFamilies {
		calls = append(calls, specs.LinuxSyscall{
			Names: []string{"socket"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: family, Op: specs.OpEqualTo}},
		})
	}
	profile.Syscalls = calls
	return profile, nil
}
