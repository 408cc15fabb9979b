package compilecache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrRefused marks what no honest Node.js writes into its cache.
var ErrRefused = errors.New("refused")

// PathsFile is the worker's own file in a cache: which file each require found.
const PathsFile = "paths.json"

// collect copies what a container wrote in from to the empty folder into. The
// copies are the agent's, readable by all. It refuses everything that is not a
// regular file with a name of a cache's, and stops at the limits.
func collect(from, into string, limits Limits) (Result, error) {
	var result Result
	dir, err := os.OpenFile(from, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return result, err
	}
	defer dir.Close()
	leftovers := 0
	for {
		names, err := dir.Readdirnames(256)
		if err != nil && err != io.EOF {
			return result, err
		}
		for _, name := range names {
			switch kind := kindOf(name); {
			case kind == leftover && leftovers < limits.Files:
				leftovers++
				continue
			case kind == unknown || kind == leftover:
				return result, fmt.Errorf("%w: %.80q is no name that Node.js gives", ErrRefused, name)
			case result.Files == limits.Files:
				return result, fmt.Errorf("%w: more than %d files", ErrRefused, limits.Files)
			}
			n, err := collectFile(dir, name, filepath.Join(into, name), min(limits.FileBytes, limits.Bytes-result.Bytes))
			if err != nil {
				return result, err
			}
			result.Files++
			result.Bytes += n
		}
		if err == io.EOF {
			return result, nil
		}
	}
}

// collectFile copies one file of at most so many bytes.
func collectFile(dir *os.File, name, to string, most int64) (int64, error) {
	// Nothing is opened for good before it is known to be a regular file: to
	// open a device may do something already, and a pipe waits for a writer.
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	})
	switch {
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENOENT):
		return 0, fmt.Errorf("%w: %s: %w", ErrRefused, name, err)
	case err != nil: // too many open files: not the function's doing
		return 0, fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, fmt.Errorf("%w: %s is no regular file", ErrRefused, name)
	case st.Nlink != 1:
		return 0, fmt.Errorf("%w: %s has %d names", ErrRefused, name, st.Nlink)
	case st.Size > most:
		return 0, fmt.Errorf("%w: %s has %d bytes, %d are left", ErrRefused, name, st.Size, most)
	}
	source, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return 0, err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(target, io.LimitReader(source, st.Size))
	return n, errors.Join(err, target.Chmod(0o444), target.Close())
}

type nameKind int

const (
	unknown nameKind = iota
	known
	// leftover is a file that Node.js began and did not finish, for want of
	// room.
	leftover
)

// kindOf knows Node's names: eight hex digits; while being written with a
// suffix of mkstemp(3).
func kindOf(name string) nameKind {
	if name == PathsFile {
		return known
	}
	if len(name) < 8 || !all(name[:8], "0123456789abcdef") {
		return unknown
	}
	switch {
	case len(name) == 8:
		return known
	case len(name) == 15 && name[8] == '.' && all(name[9:], "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"):
		return leftover
	}
	return unknown
}

func all(s, of string) bool { return strings.Trim(s, of) == "" }
