// Package container makes the sealed containers that functions run in, and
// takes them apart again without a trace.
//
// A container's life has three steps. Start makes it: it boots a program (the
// Node.js worker) that has nothing of any tenant yet. While it runs, Mount,
// SetResources and SetHostname turn the anonymous container into a function's:
// directories appear in its root, its limits and its name become those of the
// pod, and Exec runs further programs in it. Destroy ends it
// for good; a container is never used a second time.
//
//	c, err := runtime.Start(ctx, container.Config{ID: "a1", RootFS: node24, …})
//	…                                   // the worker says that it is warm
//	err = c.SetResources(ctx, container.Resources{MilliCPU: 500, MemoryBytes: 256 << 20})
//	err = c.Mount(ctx, container.Mount{Source: bundle, Target: "/function", ReadOnly: true})
//	…                                   // the worker serves
//	err = c.Destroy(ctx)
//
// Runtime is the seam. Runc in this package implements it with an OCI runtime;
// containertest has a stand-in without processes, and the suite of tests that
// every implementation passes. Nothing in the seam says that a container comes
// from an OCI start: an implementation may as well fork a booted one.
package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
)

var (
	// ErrInvalid is wrapped by errors about arguments that can never work.
	ErrInvalid = errors.New("invalid")
	// ErrExists is wrapped by Start's error when a live container has the ID.
	ErrExists = errors.New("container exists")
	// ErrGone is wrapped by the errors of calls on a container that has
	// exited or is being destroyed.
	ErrGone = errors.New("container is gone")
)

// UserID is the user and group, as seen inside, that a container's program
// runs as. On the host it is some unprivileged id that no other container
// alive has.
const UserID = 65534

// Runtime starts containers. It is safe for concurrent use; the caller bounds
// how many starts run at once.
type Runtime interface {
	// Start makes a container and starts its program. When it returns, the
	// program has been executed, though it may not have got anywhere yet.
	// After an error nothing of the container is left. ctx bounds the start
	// only, not the container's life.
	Start(ctx context.Context, cfg Config) (Container, error)
}

// Container is one started container. All methods are safe for concurrent use.
// Whoever started it must call Destroy, also after it has exited by itself.
type Container interface {
	// ID is Config.ID.
	ID() string

	// Mount makes a host file or directory visible in the running container.
	// It is on the path of a cold request: a few system calls, no process.
	Mount(ctx context.Context, m Mount) error

	// Unmount takes the latest mount at a Mount's target away again. What the
	// container has open there stays open.
	Unmount(ctx context.Context, target string) error

	// MemoryInUse is how many bytes of memory the container holds that the
	// kernel could not simply drop.
	MemoryInUse(ctx context.Context) (int64, error)

	// Usage is what the container has used since it was started. Unlike other
	// calls it is answered until Destroy, also when the program has ended.
	Usage(ctx context.Context) (Usage, error)

	// SetResources replaces the limits, in the running container. Zero
	// values mean "as started". It is on the path of a cold request.
	//
	// Lowering memory below what is in use may end the container (OOMKilled)
	// or fail with the kernel's EBUSY, depending on the cgroup version.
	SetResources(ctx context.Context, r Resources) error

	// SetHostname replaces the host name, in the running container: 1 to 64
	// bytes. It is on the path of a cold request.
	SetHostname(ctx context.Context, name string) error

	// Signal sends the container's program a signal.
	Signal(ctx context.Context, signal syscall.Signal) error

	// Exec starts a further program in the running container: as the same user,
	// in all its namespaces and its control group, and with every restriction of
	// its own program. When it returns, that has been executed; one that cannot
	// be, because it is not there, is an error in the words of the runtime. So may
	// be one before the container's own program has been executed, which is known
	// once that has said something. ctx bounds the start only, not the program's life.
	Exec(ctx context.Context, p Program) (Process, error)

	// Exited is closed once the container's program has ended, by itself or
	// through Destroy. Processes it had started are dead by then, too.
	Exited() <-chan struct{}

	// ExitStatus says how the program ended. It is the zero value until
	// Exited is closed.
	ExitStatus() ExitStatus

	// Destroy kills everything in the container and removes every trace of
	// it from the host: processes, mounts, cgroup, files. It may be called
	// many times and at the same time; once it has returned nil it returns
	// nil for ever, and after an error it may be tried again. The network
	// namespace named by Config.NetNS and the files of Config are the
	// caller's. Destroy does not stop half-way when ctx is cancelled: it has
	// a deadline of its own, some ten seconds.
	Destroy(ctx context.Context) error
}

// Config says what to start.
type Config struct {
	// ID names the container on this node: 1 to 64 letters, digits, '-' and
	// '_', starting with a letter or digit. It may be used again after Destroy.
	ID string

	// RootFS is the directory with the root filesystem. It is the lower layer
	// of what the container sees, shared by all containers and never written. It
	// has a busybox, linked statically, at bin/busybox, as those of the image have.
	RootFS string

	// Listener, Control and Log become file descriptors 3, 4 and 5 of the
	// program, without Log there is no 5; Stdout and Stderr (use pipes; nil is
	// /dev/null) become 1 and 2. Start duplicates all of them: the caller still
	// owns and closes its own, any time after Start has returned.
	Listener, Control, Log, Stdout, Stderr *os.File

	// NetNS is the path of the network namespace to run in, empty for a new
	// one that has nothing but a loopback device.
	NetNS string

	// Hostname is the container's host name, empty for ID.
	Hostname string

	// Args is the program and its arguments; Args[0] is an absolute path
	// within RootFS. Env is its whole environment.
	Args []string
	Env  []string

	// Resources are the limits until SetResources. Zero values mean the
	// runtime's own defaults.
	Resources Resources
}

// Resources are a container's limits. A zero field leaves that limit alone.
type Resources struct {
	// MilliCPU is thousandths of a processor: the ceiling, and the share under
	// contention unless MilliCPURequest is one.
	MilliCPU, MilliCPURequest int64
	// MemoryBytes is the ceiling of all memory the container's processes use,
	// page cache and tmpfs included.
	MemoryBytes int64
	// MemoryRequestBytes is what the container is owed: when the memory of all is
	// used up, the kernel first ends one that has more than that. SetResources
	// takes 0 for nothing owed.
	MemoryRequestBytes int64
	// TmpBytes limits /tmp and /dev/shm each.
	TmpBytes int64
}

// Mount names what to make visible where.
type Mount struct {
	// Source is an absolute path on the host: a directory or a regular file.
	// A symbolic link is refused.
	Source string
	// Target is an absolute, clean path inside the container: not the root, and
	// not at or below /proc, /dev and /tmp, which are the container's own.
	// What is missing on the way is made. Symbolic links on the way resolve
	// inside the container's root and can never leave it.
	Target string
	// ReadOnly refuses writes with EROFS. A source that is not read-only is
	// given to the container's user (itself, not what is in it), and so to
	// the user of every later container that it is mounted in: all of them
	// see, and share, the same owner.
	ReadOnly bool
	// NoExec refuses to run programs from there, and to map their code.
	NoExec bool
}

// ExitStatus says how a container's program ended.
type ExitStatus struct {
	// Code is what the program passed to exit; 128 + Signal if it was killed.
	Code int
	// Signal is the signal that killed it, or 0.
	Signal syscall.Signal
	// OOMKilled says that it was killed for want of memory: the container had
	// reached its limit or, if NodeFull, all containers together the node's.
	OOMKilled, NodeFull bool
}

func (s ExitStatus) String() string {
	switch {
	case s.NodeFull:
		return "killed: the node was out of memory"
	case s.OOMKilled:
		return "killed: out of memory"
	case s.Signal != 0:
		return "killed: " + s.Signal.String()
	default:
		return fmt.Sprintf("exit code %d", s.Code)
	}
}

// Validate returns an error that wraps ErrInvalid unless cfg can be started.
// It looks at cfg alone, not at the host.
func (cfg Config) Validate() error {
	switch {
	case !validID(cfg.ID):
		return fmt.Errorf("container id %q: %w: need 1 to 64 of [A-Za-z0-9_-], starting with a letter or digit", cfg.ID, ErrInvalid)
	case !path.IsAbs(cfg.RootFS):
		return fmt.Errorf("container %s: root filesystem %q: %w: need an absolute path", cfg.ID, cfg.RootFS, ErrInvalid)
	case strings.ContainsAny(cfg.RootFS, ":,\\"):
		return fmt.Errorf("container %s: root filesystem %q: %w: an overlay's lower layer may not have ':', ',' or '\\' in its path", cfg.ID, cfg.RootFS, ErrInvalid)
	case cfg.Listener == nil || cfg.Control == nil:
		return fmt.Errorf("container %s: %w: Listener and Control must both be set", cfg.ID, ErrInvalid)
	case len(cfg.Args) == 0 || !path.IsAbs(cfg.Args[0]):
		return fmt.Errorf("container %s: program %q: %w: need an absolute path", cfg.ID, cfg.Args, ErrInvalid)
	case cfg.NetNS != "" && !path.IsAbs(cfg.NetNS):
		return fmt.Errorf("container %s: network namespace %q: %w: need an absolute path", cfg.ID, cfg.NetNS, ErrInvalid)
	}
	if err := cfg.Resources.Validate(); err != nil {
		return fmt.Errorf("container %s: %w", cfg.ID, err)
	}
	return nil
}

// Validate returns an error that wraps ErrInvalid unless r makes sense.
func (r Resources) Validate() error {
	// The kernel refuses quotas under 1 ms per period, and nothing boots in
	// less memory than this.
	const minMilliCPU, minMemory = 10, 4 << 20
	if r.MilliCPU < 0 || r.MilliCPU > 0 && r.MilliCPU < minMilliCPU {
		return fmt.Errorf("cpu limit %dm: %w: need at least %dm", r.MilliCPU, ErrInvalid, minMilliCPU)
	}
	if r.MemoryBytes < 0 || r.MemoryBytes > 0 && r.MemoryBytes < minMemory {
		return fmt.Errorf("memory limit of %d bytes: %w: need at least %d", r.MemoryBytes, ErrInvalid, minMemory)
	}
	if r.MilliCPURequest < 0 || r.MemoryRequestBytes < 0 || r.TmpBytes < 0 {
		return fmt.Errorf("requests of %dm and %d bytes, %d bytes of /tmp: %w: negative", r.MilliCPURequest, r.MemoryRequestBytes, r.TmpBytes, ErrInvalid)
	}
	return nil
}

// Validate returns an error that wraps ErrInvalid unless m makes sense.
func (m Mount) Validate() error {
	if !path.IsAbs(m.Source) {
		return fmt.Errorf("mount source %q: %w: need an absolute path", m.Source, ErrInvalid)
	}
	if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
		return fmt.Errorf("mount target %q: %w: need an absolute, clean path other than the root", m.Target, ErrInvalid)
	}
	return nil
}

func validID(id string) bool {
	if len(id) == 0 || len(id) > 64 || id[0] == '-' || id[0] == '_' {
		return false
	}
	for _, r := range id {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
		default:
			return false
		}
	}
	return true
}
