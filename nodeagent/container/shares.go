package container

import (
	"errors"
	"fmt"
	"path/filepath"
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

// inotifySysctl is counted in the user namespace of whoever reads or sets it.
const inotifySysctl = "user.max_inotify_instances"

// giveShares lets a container be made with its share of inotify instances: by the
// OCI runtime, if that sets sysctls of a user namespace, or else by a shell in the
// container's namespaces, from its root, before its program is there.
func giveShares(spec *specs.Spec, root string, byRuntime bool) {
	value := strconv.Itoa(inotifyInstances)
	if byRuntime {
		spec.Linux.Sysctl = map[string]string{inotifySysctl: value}
		return
	}
	spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{
		Path: filepath.Join(root, "bin/busybox"),
		// The runtime writes the container's state to a hook, and fails if nobody is
		// there to read it any more.
		Args: []string{"busybox", "sh", "-c", "read -r state; echo " + value + " >/proc/sys/" + strings.ReplaceAll(inotifySysctl, ".", "/")},
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
