package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// versionOf is what an OCI runtime says of its version.
func versionOf(binary string, within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", binary, err)
	}
	return string(out), nil
}

// clonesItself reports whether an OCI runtime of this version begins with a copy of
// itself, unless it is run from a mount that is read-only. runc, too, protects
// itself, but otherwise, and cannot from such a mount.
func clonesItself(version string) bool { return strings.HasPrefix(version, "crun ") }

// sealBinary makes crun's program visible in dir once more, on a mount that is
// read-only, and returns its path there. A container's first process is that
// program for a moment, so that somebody in a container might get at the file and
// write to it. So crun begins with such a mount itself, from which it runs again,
// with all the libraries it is linked to: a quarter of its work, that it does
// without where it sees that it cannot be written already.
//
// It needs Linux 5.12.
func sealBinary(dir, binary string) (string, error) {
	sealed := filepath.Join(dir, filepath.Base(binary))
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("mount the OCI runtime %s on %s, read-only: %w", binary, sealed, err)
	}
	if err := makePassable(dir); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(sealed, nil, 0o600); err != nil {
		return fail(err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, binary, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = unix.Close(tree) }()
	if err := setAttributes(tree, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return fail(err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, sealed, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fail(err)
	}
	return sealed, nil
}

// unsealBinaries removes the mounts that earlier processes of the agent have made in
// dir, of whichever program.
func unsealBinaries(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		sealed := filepath.Join(dir, entry.Name())
		err = errors.Join(err, detach(sealed), os.Remove(sealed))
	}
	if err != nil {
		return fmt.Errorf("remove an earlier agent's mounts of OCI runtimes: %w", err)
	}
	return nil
}
