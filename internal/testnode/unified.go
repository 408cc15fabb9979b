package testnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// HideUnified gives tests control groups as a pod sees them on a hybrid
// machine: those of cgroup v1, without the second hierarchy. crun refuses to
// work where it finds one that has controllers of its own. It is for processes that
// Enter has returned in, and changes nothing where control groups are otherwise.
func HideUnified() error {
	const top = "/sys/fs/cgroup"
	controllers, err := os.ReadFile(top + "/unified/cgroup.controllers")
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(controllers) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	aside, err := os.MkdirTemp("", "sanfran-cgroup-")
	if err != nil {
		return err
	}
	defer os.Remove(aside)
	if err := unix.Mount("tmpfs", aside, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || e.Name() == "unified" {
			continue
		}
		to := filepath.Join(aside, e.Name())
		if err := errors.Join(os.Mkdir(to, 0o755), unix.Mount(filepath.Join(top, e.Name()), to, "", unix.MS_BIND, "")); err != nil {
			return fmt.Errorf("bind %s: %w", e.Name(), err)
		}
	}
	return errors.Join(unix.Unmount(top, unix.MNT_DETACH), unix.Mount(aside, top, "", unix.MS_MOVE, ""))
}
