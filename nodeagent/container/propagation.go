package container

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// followRoot makes the root of a container that has been started follow the
// slot's mount at root: what is mounted there later shows in the container, and
// nothing the other way round. runc has done that, as the spec asks it to
// (rootfsPropagation); crun makes the container's root private.
//
// For the latter it needs Linux 5.15.
func followRoot(root string, pid int) error {
	follows, err := rootFollows(pid)
	if err != nil || follows {
		return err
	}
	// A slave of the slot's mount, nowhere to be seen, whose place is given to
	// the container's root.
	slave, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone the mount %s: %w", root, err)
	}
	defer func() { _ = unix.Close(slave) }()
	if err := unix.MountSetattr(slave, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {
		return fmt.Errorf("make a slave of the mount %s: %w", root, err)
	}
	inside, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	defer func() { _ = unix.Close(inside) }()
	if err := unix.MoveMount(slave, "", inside, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH|unix.MOVE_MOUNT_SET_GROUP); err != nil {
		return fmt.Errorf("let the container's root follow the mount %s: %w (Linux 5.15 or newer is needed with this OCI runtime)", root, err)
	}
	return nil
}

// rootFollows reports whether a process's root is a slave of some mount.
func rootFollows(pid int) (bool, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return false, fmt.Errorf("look at the container's mounts: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if m, ok := parseMountinfo(line); ok && m.MountPoint == "/" {
			return m.Slave, nil
		}
	}
	return false, fmt.Errorf("look at the container's mounts: process %d has no root: %w", pid, errors.ErrUnsupported)
}
