package nodeagent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// defaultEmptyDirBytes is what an emptyDir without a size may hold when the pod
// has no limit of ephemeral storage.
const defaultEmptyDirBytes = 256 << 20

// sharedEmptyDir is the name, which no volume can have, of what emptyDirs
// without a size of their own have together.
const sharedEmptyDir = "."

// emptyDirSizes are the sizes of a pod's emptyDirs by name; those without one
// of their own share sharedEmptyDir. Their sum is at most total, if that is
// known, and memory, of which they are made.
func emptyDirSizes(mounts []PodMount, total, memory int64) (map[string]int64, error) {
	limit, of := memory, "memory limit, and emptyDirs are in memory here"
	if total > 0 && total < memory {
		limit, of = total, "limit of ephemeral-storage"
	}
	sizes := map[string]int64{}
	var sum int64
	share := false
	for _, m := range mounts {
		if m.EmptyDir == "" {
			continue
		}
		if m.EmptyDirBytes == 0 {
			share = true
		} else if _, again := sizes[m.EmptyDir]; !again {
			sizes[m.EmptyDir] = m.EmptyDirBytes
			sum += min(m.EmptyDirBytes, limit+1) // whatever it is, it does not overflow
		}
	}
	if sum > limit {
		return nil, fmt.Errorf("the size limits of the pod's emptyDirs are together more than the %d MiB of the pod's %s; lower emptyDir.sizeLimit, or raise that limit", limit>>20, of)
	}
	if share && sum == limit {
		return nil, fmt.Errorf("emptyDirs without a size limit would have nothing: those with one take all of the %d MiB of the pod's %s; lower emptyDir.sizeLimit, or raise that limit", limit>>20, of)
	}
	if share {
		sizes[sharedEmptyDir] = limit - sum
		if total == 0 {
			sizes[sharedEmptyDir] = min(sizes[sharedEmptyDir], defaultEmptyDirBytes)
		}
	}
	return sizes, nil
}

// mountEmptyDirs makes the filesystems that hold a pod's emptyDirs below dir, by
// sizes of emptyDirSizes. Each is in memory, where the kernel itself keeps to the
// size: a function that fills it gets ENOSPC and does nothing to the node's disk.
// Those of an earlier process stay, with what is in them.
func mountEmptyDirs(dir string, sizes map[string]int64) error {
	for name, size := range sizes {
		point := emptyDirFilesystem(dir, name)
		err := os.Mkdir(point, 0o777)
		if errors.Is(err, fs.ErrExist) {
			var mounted bool
			if mounted, err = isMountPoint(dir, point); mounted {
				continue
			}
		}
		if err != nil {
			return err
		}
		// An inode takes memory that the size does not count.
		options := fmt.Sprintf("mode=0777,size=%d,nr_inodes=%d", size, 1024+size/4096)
		if err := unix.Mount("emptydir", point, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", point, err)
		}
		// Private, so that no container's mount shows anywhere else on the host.
		if err := unix.Mount("", point, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make %s private: %w", point, err)
		}
	}
	return nil
}

// isMountPoint reports whether another filesystem than that of dir is mounted on
// point, which is in it.
func isMountPoint(dir, point string) (bool, error) {
	var below, above unix.Stat_t
	if err := errors.Join(unix.Lstat(dir, &below), unix.Lstat(point, &above)); err != nil {
		return false, fmt.Errorf("is something mounted on %s: %w", point, err)
	}
	return below.Dev != above.Dev, nil
}

func emptyDirFilesystem(dir, name string) string {
	if name == sharedEmptyDir {
		return filepath.Join(dir, "emptydirs")
	}
	return filepath.Join(dir, "emptydir-"+name)
}

// emptyDirFolder is where an emptyDir is: a folder in its filesystem, because
// who mounts it gives it to a container's user.
func emptyDirFolder(dir string, m PodMount) string {
	name := m.EmptyDir
	if m.EmptyDirBytes == 0 {
		name = sharedEmptyDir
	}
	return filepath.Join(emptyDirFilesystem(dir, name), m.EmptyDir)
}

// unmountEmptyDirs takes away what mountEmptyDirs has made below dir, and what
// is mounted twice.
func unmountEmptyDirs(dir string) error {
	points, err := filepath.Glob(filepath.Join(dir, "emptydir*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range points {
		for {
			err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err == nil {
				continue
			}
			if err != unix.EINVAL && err != unix.ENOENT && err != unix.EPERM { // not a mount point; or not root, who has mounted nothing
				errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
			}
			break
		}
	}
	return errors.Join(errs...)
}
