package container

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// RuncOptions says how Runc works. Only WorkDir and Cgroups are required.
type RuncOptions struct {
	// Binary is the OCI runtime, a path or a name on PATH; empty for "runc".
	Binary string
	// WorkDir is a directory of the agent's own, made if missing, that every
	// user may pass through. A tmpfs is mounted in it, at "run". One Runc at a
	// time may use it.
	WorkDir string
	// Cgroups is where the containers' control groups go. No other runtime
	// may have the same: Sweep ends what it finds there.
	Cgroups *Cgroups
	// Defaults are the limits of a container that is started without; zero
	// fields mean no limit.
	Defaults Resources
	// TmpBytes limits /tmp and /dev/shm each; 0 for 256 MiB. What is in them
	// counts as the container's memory.
	TmpBytes int64
	// PidsLimit limits processes and threads together; 0 for 512.
	PidsLimit int64
	// StartTimeout is how long the OCI runtime may take; 0 for 20 seconds.
	StartTimeout time.Duration
	// Parent is the parent of the containers' first processes, which must be a
	// subreaper (see prctl(2)) above the agent's process, and wait for them; nil:
	// the agent's process becomes one itself.
	Parent Parent
	// Logger gets what no caller can be told; nil for slog.Default().
	Logger *slog.Logger
}

// Runc is a Runtime whose containers are made by runc, or another OCI runtime
// with runc's command line. Make it with NewRunc, then call Sweep once before
// the first Start. It needs root.
//
// Without RuncOptions.Parent it makes the agent's process a subreaper (see
// prctl(2)): nothing else in the process may wait for arbitrary children then, nor
// another Runc work in it.
type Runc struct {
	opts        RuncOptions
	binary      string // the OCI runtime; crun on a mount that is read-only
	lock        *os.File
	seccomp     *specs.LinuxSeccomp
	oomScoreAdj int  // the agent's own
	setsShares  bool // the OCI runtime sets sysctls of user namespaces
	openFiles   uint64
	hostIDs     hostIDs
	parent      Parent
	logger      *slog.Logger
	uts         *os.File // the agent's own UTS namespace

	mu   sync.Mutex
	live map[string]bool // ids from the beginning of Start to the end of Destroy
}

var _ Runtime = (*Runc)(nil)

// NewRunc makes the work directory ready and takes its lock. Close releases it.
func NewRunc(opts RuncOptions) (_ *Runc, err error) {
	if opts.Cgroups == nil {
		return nil, fmt.Errorf("runc: %w: Cgroups must be set, see PrepareCgroups", ErrInvalid)
	}
	if !filepath.IsAbs(opts.WorkDir) || strings.ContainsAny(opts.WorkDir, ":,\\") {
		return nil, fmt.Errorf("runc: work directory %q: %w: need an absolute path without ':', ',' and '\\'", opts.WorkDir, ErrInvalid)
	}
	if opts.Binary == "" {
		opts.Binary = "runc"
	}
	if opts.TmpBytes == 0 {
		opts.TmpBytes = 256 << 20
	}
	if opts.PidsLimit == 0 {
		opts.PidsLimit = 512
	}
	if opts.StartTimeout == 0 {
		opts.StartTimeout = 20 * time.Second
	}
	if opts.Logger == nil {
		opts.Logger = slog.Default()
	}
	r := &Runc{opts: opts, logger: opts.Logger, parent: opts.Parent, live: map[string]bool{}}
	binary, err := exec.LookPath(opts.Binary)
	if err != nil {
		return nil, fmt.Errorf("the OCI runtime: %w (install %s, or name another)", err, opts.Binary)
	}
	if r.seccomp, err = seccompProfile(); err != nil {
		return nil, err
	}
	version, err := versionOf(binary, opts.StartTimeout)
	if err != nil {
		return nil, err
	}
	r.binary, r.setsShares = binary, setsUserSysctls(version)
	if r.oomScoreAdj, err = ownOOMScore(); err != nil {
		return nil, err
	}
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return nil, fmt.Errorf("limit of open files: %w", err)
	}
	r.openFiles = min(files.Max, 1<<16) // more than the agent's own would need CAP_SYS_RESOURCE
	if r.parent == nil {
		r.parent = ownChildren{}
	}
	if _, _, err := readChildren(r.parentPID()); err != nil { // nothing could be destroyed without
		return nil, err
	}
	if err := r.prepareWorkDir(); err != nil {
		return nil, err
	}
	err = unsealBinaries(r.binaryDir())
	if err == nil && clonesItself(version) {
		r.binary, err = sealBinary(r.binaryDir(), binary)
	}
	if err == nil && opts.Parent == nil {
		err = becomeSubreaper()
	}
	if err != nil {
		return nil, errors.Join(err, r.lock.Close())
	}
	if r.uts, err = os.Open("/proc/thread-self/ns/uts"); err != nil {
		return nil, errors.Join(fmt.Errorf("the agent's UTS namespace: %w", err), r.lock.Close())
	}
	return r, nil
}

func (r *Runc) runDir() string         { return filepath.Join(r.opts.WorkDir, "run") }
func (r *Runc) stateDir() string       { return filepath.Join(r.runDir(), "state") }
func (r *Runc) slotsDir() string       { return filepath.Join(r.runDir(), "slots") }
func (r *Runc) binaryDir() string      { return filepath.Join(r.runDir(), "bin") }
func (r *Runc) slot(id string) slotDir { return slotDir(filepath.Join(r.slotsDir(), id)) }
func (r *Runc) state(id string) string { return filepath.Join(r.stateDir(), id) }
func (r *Runc) lockFile() string       { return filepath.Join(r.opts.WorkDir, "lock") }
func makePassable(dir string) error {
	return errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711))
}

func (r *Runc) prepareWorkDir() (err error) {
	if err := makePassable(r.opts.WorkDir); err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	for dir := r.opts.WorkDir; dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("work directory: %w", err)
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("work directory %s: %w: containers run as users who may not pass %s (chmod o+x it, or choose another place)", r.opts.WorkDir, ErrInvalid, dir)
		}
	}
	r.lock, err = os.OpenFile(r.lockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.lock.Close())
		}
	}()
	if err := unix.Flock(int(r.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("work directory %s is in use by another agent: %w", r.opts.WorkDir, err)
	}
	if err := makePassable(r.runDir()); err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	mounted, err := mountsUnder(r.runDir())
	if err != nil {
		return err
	}
	if len(mounted) == 0 {
		// 64 KB or so are used by a container; the size only stops mistakes.
		if err := unix.Mount("tmpfs", r.runDir(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=711,size=256m"); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", r.runDir(), err)
		}
	}
	// Private, so that no container's mount shows anywhere else on the host.
	if err := unix.Mount("", r.runDir(), "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make %s private: %w", r.runDir(), err)
	}
	return errors.Join(makePassable(r.stateDir()), makePassable(r.slotsDir()))
}

// Close gives the work directory back, without the mount in it. Every
// container must have been destroyed.
func (r *Runc) Close() error {
	r.mu.Lock()
	n := len(r.live)
	r.mu.Unlock()
	if n > 0 {
		return fmt.Errorf("close the container runtime: %d containers are still alive; destroy them first", n)
	}
	return errors.Join(detach(r.runDir()), os.Remove(r.runDir()), r.opts.Cgroups.removeImitation(""), r.opts.Cgroups.Close(), r.uts.Close(), r.lock.Close())
}

// claim reserves an id.
func (r *Runc) claim(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[id] {
		return fmt.Errorf("container %s: %w", id, ErrExists)
	}
	r.live[id] = true
	return nil
}

func (r *Runc) unclaim(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, id)
}

// undo is a list of what takes back the steps done so far.
type undo []func() error

func (u *undo) add(f func() error) { *u = append(*u, f) }

// run takes the steps back, the latest first, all of them whatever fails.
func (u undo) run() error {
	var errs []error
	for i := len(u) - 1; i >= 0; i-- {
		errs = append(errs, u[i]())
	}
	return errors.Join(errs...)
}

// killSignal is what ends a container.
const killSignal = syscall.SIGKILL
