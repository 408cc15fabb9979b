package container

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// resizeTmp sets how much fits into a running container's /tmp and /dev/shm. The
// filesystems are reached through the process, whose mounts nobody else sees.
func resizeTmp(pid int, bytes int64) error {
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		if err := resize(fmt.Sprintf("/proc/%d/root%s", pid, dir), bytes); err != nil {
			return fmt.Errorf("limit %s to %d bytes: %w", dir, bytes, err)
		}
	}
	return nil
}

// sealGroups makes the filesystem read-only that a container's hierarchies of cgroup v1
// are mounted in: crun leaves it open to everybody. The first process's mounts are
// those of all.
func sealGroups(p *initProcess) error {
	if p.ended { // its pid may be somebody else's
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/root/sys/fs/cgroup", p.pid)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the container's control groups: %w", err)
	}
	if st.Type != unix.TMPFS_MAGIC { // the only hierarchy of cgroup v2, mounted read-only
		return nil
	}
	fs, err := unix.Fspick(unix.AT_FDCWD, dir, unix.FSPICK_CLOEXEC|unix.FSPICK_NO_AUTOMOUNT)
	if err == nil {
		defer func() { _ = unix.Close(fs) }()
		err = unix.FsconfigSetFlag(fs, "ro")
	}
	if err == nil {
		err = unix.FsconfigReconfigure(fs)
	}
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}

func resize(tmpfs string, bytes int64) error {
	fs, err := unix.Fspick(unix.AT_FDCWD, tmpfs, unix.FSPICK_CLOEXEC|unix.FSPICK_NO_AUTOMOUNT)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fs) }()
	if err := unix.FsconfigSetString(fs, "size", strconv.FormatInt(bytes, 10)); err != nil {
		return err
	}
	return unix.FsconfigReconfigure(fs)
}
