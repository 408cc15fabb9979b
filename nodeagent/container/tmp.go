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
