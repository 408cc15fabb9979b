package container

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"sanfran.dev/internal/failpoint"
)

// ownMounts are where a container has filesystems of its own. What is mounted
// there from outside would lie underneath, unseen.
var ownMounts = []string{"/proc", "/dev", "/sys", "/tmp"}

// tenant is whom a writable mount is for: a container, by its first process
// and by the host user id that its program has.
type tenant struct {
	pid    int
	hostID int
}

// bind makes m.Source visible at m.Target below the directory root, which is
// another filesystem's root to somebody hostile: no name in it is trusted.
// The mount is complete before it becomes visible, so that a read-only one is
// never writable for a moment.
//
// It needs Linux 5.12.
func bind(root string, m Mount, who tenant) error {
	for _, own := range ownMounts {
		if m.Target == own || strings.HasPrefix(m.Target, own+"/") {
			return fmt.Errorf("mount target %q: %w: %s is the container's own", m.Target, ErrInvalid, own)
		}
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("mount source %s: %w", m.Source, err)
	}
	defer func() { _ = unix.Close(tree) }()
	kind, err := fileKind(tree)
	if err != nil {
		return fmt.Errorf("mount source %s: %w", m.Source, err)
	}
	if kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return fmt.Errorf("mount source %s: %w: neither a directory nor a regular file", m.Source, ErrInvalid)
	}
	var attributes uint64
	if m.NoExec {
		attributes = unix.MOUNT_ATTR_NOEXEC
	}
	if m.ReadOnly {
		err = setAttributes(tree, unix.MountAttr{Attr_set: attributes | unix.MOUNT_ATTR_RDONLY})
	} else {
		err = giveTo(tree, who, attributes)
	}
	if err != nil {
		return fmt.Errorf("mount source %s: %w", m.Source, err)
	}
	target, err := mountPoint(root, m.Target, kind)
	if err != nil {
		return fmt.Errorf("mount target %s: %w", m.Target, err)
	}
	defer func() { _ = unix.Close(target) }()
	failpoint.Here("container: mount point made")
	if err := unix.MoveMount(tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.Source, m.Target, err)
	}
	failpoint.Here("container: mounted")
	return nil
}

// unbind takes away what is mounted at target below root, the latest first. Like
// bind it trusts no name in there: what it finds is pinned before it goes.
func unbind(root, target string) error {
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(top) }()
	point, err := openIn(top, strings.TrimPrefix(target, "/"))
	if err != nil {
		return fmt.Errorf("open %s: %w", target, err)
	}
	defer func() { _ = unix.Close(point) }()
	// A path that is no mount point is refused with EINVAL.
	if err := unix.Unmount(fmt.Sprintf("/proc/self/fd/%d", point), unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// setAttributes sets those of a mount that is nowhere yet.
func setAttributes(tree int, attr unix.MountAttr) error {
	attr.Attr_set |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	attr.Propagation = unix.MS_PRIVATE
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("set the mount's attributes: %w (Linux 5.12 or newer is needed)", err)
	}
	return nil
}

// giveTo makes a mount writable for a container. The ids of files are mapped:
// what the container's user writes is UserID's on disk, so that the next
// container of the same volume, whose user is another of the host's, owns it
// too. On a filesystem that cannot map ids (overlayfs, NFS) the volume itself
// is given to this container's user, and older files stay their writers'.
func giveTo(tree int, who tenant, attributes uint64) error {
	own := func(id int) error {
		if err := unix.Fchownat(tree, "", id, id, unix.AT_EMPTY_PATH); err != nil {
			return fmt.Errorf("give it to user %d: %w", id, err)
		}
		return nil
	}
	if err := own(UserID); err != nil { // before ids are mapped: it is the owner on disk
		return err
	}
	namespace, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", who.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the container's user namespace: %w", err)
	}
	defer func() { _ = unix.Close(namespace) }()
	err = setAttributes(tree, unix.MountAttr{Attr_set: attributes | unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace)})
	if errors.Is(err, unix.EINVAL) {
		if err = own(who.hostID); err == nil {
			err = setAttributes(tree, unix.MountAttr{Attr_set: attributes})
		}
	}
	return err
}

// mountPoint opens target below root, making what is missing: directories, and
// at the end a directory or an empty file, by kind. Symbolic links resolve as
// if root were the root, by the kernel, at the moment of each step.
func mountPoint(root, target string, kind uint32) (_ int, err error) {
	top, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	parent := top
	defer func() {
		_ = unix.Close(top)
		if parent != top {
			_ = unix.Close(parent)
		}
	}()
	names := strings.Split(strings.TrimPrefix(target, "/"), "/")
	// What most mounts are for is there, and found in one step.
	if fd, err := openIn(top, path.Join(names...)); err == nil {
		if got, err := fileKind(fd); err == nil && got == kind {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	for i, name := range names {
		last := i == len(names)-1
		want := uint32(unix.S_IFDIR)
		if last {
			want = kind
		}
		sofar := path.Join(names[:i+1]...)
		fd, err := openIn(top, sofar)
		if errors.Is(err, unix.ENOENT) {
			if err := makeEntry(parent, name, want); err != nil {
				return -1, fmt.Errorf("make /%s: %w", sofar, err)
			}
			fd, err = openIn(top, sofar)
		}
		if err != nil {
			return -1, fmt.Errorf("open /%s: %w", sofar, err)
		}
		if got, err := fileKind(fd); err != nil || got != want {
			_ = unix.Close(fd)
			if err == nil {
				err = fmt.Errorf("/%s: %w: a directory cannot take the place of a file, nor a file that of a directory", sofar, ErrInvalid)
			}
			return -1, err
		}
		if last {
			return fd, nil
		}
		if parent != top {
			_ = unix.Close(parent)
		}
		parent = fd
	}
	return -1, ErrInvalid // unreachable: Split returns at least one name
}

// openIn opens name as if top were the root directory.
func openIn(top int, name string) (int, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	for range 32 {
		fd, err := unix.Openat2(top, name, &how)
		if err != unix.EAGAIN { // somebody renames on the way: look again
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

// makeEntry makes a directory or an empty file that everybody may read,
// whatever the umask. Modes are changed through the opened entry, never by
// name: a tenant with a writable volume could put a link in its place.
func makeEntry(parent int, name string, kind uint32) error {
	flags, mode := unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, uint32(0o444)
	if kind == unix.S_IFDIR {
		if err := unix.Mkdirat(parent, name, 0o755); err != nil {
			return err
		}
		flags, mode = unix.O_RDONLY|unix.O_DIRECTORY, 0o755
	}
	fd, err := unix.Openat(parent, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fchmod(fd, mode), unix.Close(fd))
}

// fileKind is the S_IFMT part of an open file's mode.
func fileKind(fd int) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	return st.Mode & unix.S_IFMT, nil
}
