package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MemoryInUse is how many bytes container id's group holds that are not cached
// files, which the kernel drops when it needs their room. Files on a tmpfs count:
// they are dropped by nobody.
func (g *Cgroups) MemoryInUse(id string) (int64, error) {
	total, prefix := "memory.usage_in_bytes", "total_"
	if g.v2 {
		total, prefix = "memory.current", ""
	}
	dir, ok := g.dir("memory", id)
	if !ok {
		return 0, fmt.Errorf("memory of container %s: this machine has no cgroup controller %q", id, "memory")
	}
	usage, err := os.ReadFile(filepath.Join(dir, total))
	if err != nil {
		return 0, fmt.Errorf("memory of container %s: %w", id, err)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, fmt.Errorf("memory of container %s: %w", id, err)
	}
	n, err := memoryInUse(string(usage), string(stat), prefix)
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
