package container

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"time"
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

// shareSysctls are the sysctls that give a container its share, or an error if
// the OCI runtime refuses to set those of a user namespace: runc does since 1.4.
func shareSysctls(binary string, within time.Duration) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --version: %w", binary, err)
	}
	if !setsUserSysctls(string(out)) {
		return nil, fmt.Errorf("%s does not set sysctls of user namespaces (%.40q); runc does since 1.4", binary, out)
	}
	return map[string]string{"user.max_inotify_instances": strconv.Itoa(inotifyInstances)}, nil
}

// setsUserSysctls reads what an OCI runtime says of its version.
func setsUserSysctls(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "runc version %d.%d.", &major, &minor); err != nil {
		return false
	}
	return major > 1 || major == 1 && minor >= 4
}
