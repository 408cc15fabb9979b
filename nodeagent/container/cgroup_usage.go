package container

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MemoryInUse is how many bytes container id's group holds that are not cached
// files, which the kernel drops when it needs their room. Files on a tmpfs count:
// they are dropped by nobody.
func (g *Cgroups) MemoryInUse(id string) (int64, error) {
	dir, ok := g.dir("memory", id)
	if !ok {
		return 0, fmt.Errorf("memory of container %s: this machine has no cgroup controller %q", id, "memory")
	}
	usage, err := os.ReadFile(filepath.Join(dir, g.usageFile()))
	if err != nil {
		return 0, fmt.Errorf("memory of container %s: %w", id, err)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, fmt.Errorf("memory of container %s: %w", id, err)
	}
	n, err := memoryInUse(string(usage), string(stat), g.statPrefix())
	if err != nil {
		return 0, fmt.Errorf("memory of container %s: %w", id, err)
	}
	return n, nil
}

// memoryInUse takes the file pages of a group's memory.stat from its usage.
// prefix stands before the names that count what is below the group too.
func memoryInUse(usage, stat, prefix string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(usage), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("its usage is %q", usage)
	}
	for line := range strings.Lines(stat) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name != prefix+"inactive_file" && name != prefix+"active_file" {
			continue
		}
		file, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("its statistics have %q", line)
		}
		n -= file
	}
	return max(n, 0), nil // the two files are not read at one moment
}

// MemoryLeft is how much memory containers may still use together before the
// kernel has to end one. It reads no more than it takes to know that need is
// left: cached files, which can be dropped, are counted as used if there is
// enough all the same.
func (g *Cgroups) MemoryLeft(need int64) (int64, error) {
	left := int64(math.MaxInt64)
	for _, group := range []struct {
		path  string
		limit int64
	}{{g.parent, g.functionsMemory.Load()}, {g.base, g.allMemory.Load()}} {
		if group.limit == 0 {
			continue
		}
		dir := g.folder("memory", group.path)
		usage, err := readNumberFile(filepath.Join(dir, g.usageFile()))
		if err != nil {
			return 0, fmt.Errorf("memory of control group %s: %w", group.path, err)
		}
		used, err := memoryInUse(usage, "", "")
		if err == nil && group.limit-used < need {
			var stat []byte
			if stat, err = os.ReadFile(filepath.Join(dir, "memory.stat")); err == nil {
				used, err = memoryInUse(usage, string(stat), g.statPrefix())
			}
		}
		if err != nil {
			return 0, fmt.Errorf("memory of control group %s: %w", group.path, err)
		}
		left = min(left, group.limit-used)
	}
	return left, nil
}

// readNumberFile reads a file of one line, in as few system calls as
// writeCgroupFile takes.
func readNumberFile(name string) (string, error) {
	fd, err := openFile(name, unix.O_RDONLY)
	if err != nil {
		return "", err
	}
	var line [32]byte // longer than any number
	n, err := unix.Read(fd, line[:])
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		return "", &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return string(line[:n]), nil
}

func (g *Cgroups) usageFile() string {
	if g.v2 {
		return "memory.current"
	}
	return "memory.usage_in_bytes"
}

// statPrefix stands before those names in memory.stat that count what is below
// the group too.
func (g *Cgroups) statPrefix() string {
	if g.v2 {
		return ""
	}
	return "total_"
}
