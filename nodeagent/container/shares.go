package container

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The kernel counts some things of a container for the user who made its user
// namespace, too: the node's root, who is the same for all containers. One that
// took all of it would leave nothing to the others, nor to the node's own
// services. So each container has a share. What is not listed is counted by the
// control group, or for the container alone.
const (
	// inotifyInstances: an event loop that watches files has one. Of a node's
	// root it is fs.inotify.max_user_instances, 128 unless somebody raised it.
	inotifyInstances = 16
	// inotifyWatches are files and folders watched, by all its instances. A node's
	// root has fs.inotify.max_user_watches: 8,192, or more by the machine's memory, to
	// a million.
	inotifyWatches = 512
	// terminals are those of exec, and those a function opens. All containers
	// together may have 3,072: kernel.pty.max but kernel.pty.reserve.
	terminals = 64
	// queuedSignals are those of real-time signals and of timers, which
	// JavaScript has no way to make.
	queuedSignals = 256
	// messageQueueBytes: no POSIX message queue at all. Ten of the usual size
	// are what the node's root may have.
	messageQueueBytes = 0
)

// limitSignals gives a container's first process, and so all that it starts, its share
// of queued signals. The specification does not: of an OCI runtime that lowers the
// limit before it makes the user namespace, as crun does, the kernel takes it for what
// the namespace's maker may have in all namespaces together, who is the same for all.
func limitSignals(p *initProcess) error {
	if p.ended { // its pid may be somebody else's
		return nil
	}
	limit := unix.Rlimit{Cur: queuedSignals, Max: queuedSignals}
	if err := unix.Prlimit(p.pid, unix.RLIMIT_SIGPENDING, &limit, nil); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("limit the container's queued signals: %w", err)
	}
	return nil
}

// inotifyShares are counted in the user namespace of whoever reads or sets them.
var inotifyShares = map[string]string{
	"user.max_inotify_instances": strconv.Itoa(inotifyInstances),
	"user.max_inotify_watches":   strconv.Itoa(inotifyWatches),
}

// giveShares lets a container be made with its share of inotify: by the OCI runtime,
// if that sets sysctls of a user namespace, or else by a shell in the container's
// namespaces, from its root, before its program is there.
func giveShares(spec *specs.Spec, root string, byRuntime bool) {
	if byRuntime {
		spec.Linux.Sysctl = maps.Clone(inotifyShares)
		return
	}
	// The runtime writes the container's state to a hook, and fails if nobody is
	// there to read it any more.
	script := "set -e; read -r state || true" // what it reads may have no end of line
	for _, name := range slices.Sorted(maps.Keys(inotifyShares)) {
		script += "; echo " + inotifyShares[name] + " >/proc/sys/" + strings.ReplaceAll(name, ".", "/")
	}
	spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{
		Path: filepath.Join(root, "bin/busybox"),
		Args: []string{"busybox", "sh", "-c", script},
	}}}
}

// setsUserSysctls reports whether an OCI runtime of this version sets sysctls of user
// namespaces, which others than runc refuse, and so did runc before 1.4.
func setsUserSysctls(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "runc version %d.%d.", &major, &minor); err != nil {
		return false
	}
	return major > 1 || major == 1 && minor >= 4
}
