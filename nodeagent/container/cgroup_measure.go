package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Usage is what a control group uses.
type Usage struct {
	// CPU is processor time since the group was made. What groups below it have
	// used counts, also when they are no more.
	CPU time.Duration
	// WorkingSet is bytes of memory without the cached files that were not used
	// lately: what Kubernetes calls so.
	WorkingSet int64
}

// Usage is what container id uses, or all containers together if id is empty.
func (g *Cgroups) Usage(id string) (Usage, error) {
	cpu, err := g.cpuTime(id)
	if err != nil {
		return Usage{}, fmt.Errorf("processor time of control group %q: %w", g.Path(id), err)
	}
	memory, err := g.workingSet(id)
	if err != nil {
		return Usage{}, fmt.Errorf("memory of control group %q: %w", g.Path(id), err)
	}
	return Usage{CPU: cpu, WorkingSet: memory}, nil
}

// cpuTime reads nanoseconds from v1's own file for them, and microseconds from a
// line of v2's.
func (g *Cgroups) cpuTime(id string) (time.Duration, error) {
	file := "cpuacct.usage"
	if g.v2 {
		file = "cpu.stat"
	}
	dir, ok := g.dir("cpuacct", id)
	if !ok {
		return 0, fmt.Errorf("this machine has no cgroup controller %q", "cpuacct")
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return parseCPUTime(g.v2, string(text))
}

func parseCPUTime(v2 bool, text string) (time.Duration, error) {
	unit, number := time.Nanosecond, strings.TrimSpace(text)
	if v2 {
		unit, number = time.Microsecond, field(text, "usage_usec")
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("it is not in %.200q", text)
	}
	return time.Duration(n) * unit, nil
}

func (g *Cgroups) workingSet(id string) (int64, error) {
	dir, ok := g.dir("memory", id)
	if !ok {
		return 0, fmt.Errorf("this machine has no cgroup controller %q", "memory")
	}
	usage, err := os.ReadFile(filepath.Join(dir, g.usageFile()))
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0, err
	}
	return parseWorkingSet(string(usage), string(stat), g.statPrefix())
}

// parseWorkingSet takes the inactive file pages of a group's memory.stat from its
// usage. prefix stands before the names that count what is below the group too.
func parseWorkingSet(usage, stat, prefix string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(usage), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("its usage is %q", usage)
	}
	inactive, err := strconv.ParseInt(field(stat, prefix+"inactive_file"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("its inactive files are not in %.300q", stat)
	}
	return max(n-inactive, 0), nil // the two files are not read at one moment
}

// field is the value of a line "name value", or "".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
