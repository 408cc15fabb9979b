package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// slotDir is the folder of one container on the host: the layers of its root
// and the OCI bundle. It lies on a tmpfs, so it costs a few kilobytes of
// memory and no disk write.
type slotDir string

func (d slotDir) upper() string   { return filepath.Join(string(d), "upper") }
func (d slotDir) work() string    { return filepath.Join(string(d), "work") }
func (d slotDir) root() string    { return filepath.Join(string(d), "rootfs") }
func (d slotDir) bundle() string  { return filepath.Join(string(d), "bundle") }
func (d slotDir) spec() string    { return filepath.Join(d.bundle(), "config.json") }
func (d slotDir) log() string     { return filepath.Join(d.bundle(), "runtime.log") }
func (d slotDir) pidFile() string { return filepath.Join(d.bundle(), "pid") }

// create makes the folders, all of which every user may pass: the runtime
// enters them with the container's unprivileged user id.
func (d slotDir) create() error {
	for _, dir := range []string{string(d), d.upper(), d.work(), d.root(), d.bundle()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}

// remove deletes the folders; it must come after unmount. The root is removed
// only if it is empty: were it still mounted, deleting what is in it would
// delete bundles and volumes.
func (d slotDir) remove() error {
	if err := os.Remove(d.root()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{d.upper(), d.work(), d.bundle()} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := os.Remove(string(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mount lays an empty writable layer over lower. The mount is shared: what is
// mounted on it later shows in the container, whose root is a slave of it.
// The writable layer is for the agent, which makes mount points there; the
// container sees all of it read-only.
func (d slotDir) mount(lower string) error {
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, d.upper(), d.work())
	if err := unix.Mount("overlay", d.root(), "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount overlay on %s over %s: %w", d.root(), lower, err)
	}
	if err := unix.Mount("", d.root(), "", unix.MS_SHARED, ""); err != nil {
		return errors.Join(fmt.Errorf("share the mount %s: %w", d.root(), err), d.unmount())
	}
	return nil
}

// unmount detaches the root with all that is mounted in it. It returns nil if
// nothing is mounted.
func (d slotDir) unmount() error { return detach(d.root()) }

// detach unmounts everything that is stacked on point, and below it.
func detach(point string) error {
	for {
		switch err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT: // not a mount point (any more)
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
}
