package container

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// oom is what the kernel tells of a container's want of memory.
type oom struct {
	// kills is how many of its processes the kernel has killed for that.
	kills int
	// own: it has reached the limit of its own group, not only one around.
	own bool
}

// chargedAhead is what the kernel may charge a group ahead of its use: 64 pages on
// each processor (MEMCG_CHARGE_BATCH), of few. So close to a limit is at it.
const chargedAhead = 1 << 20

// oom reads it; the zero value is that of a container whose group is gone.
//
// Cgroup v1 counts no moments of want as v2 does. It counts how often a limit kept
// something from being taken at once (newer kernels do not, and where memory and
// swap are counted together it is their limit that is asked first), and the most
// that has been in use. Dropping cached files may have cured that: a container that
// once was full of those and is later killed because of the group around counts as
// one at its own limit.
func (g *Cgroups) oom(id string) oom {
	dir := g.folder("memory", filepath.Join(g.parent, id))
	if g.v2 {
		events := readCounters(filepath.Join(dir, "memory.events"))
		return oom{kills: events["oom_kill"], own: events["oom"] > 0}
	}
	o := oom{kills: readCounters(filepath.Join(dir, "memory.oom_control"))["oom_kill"]}
	number := func(file string) int64 {
		data, _ := os.ReadFile(filepath.Join(dir, file)) // not all are everywhere
		n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		return n
	}
	limit := number("memory.limit_in_bytes")
	o.own = number("memory.failcnt") > 0 || number("memory.memsw.failcnt") > 0 ||
		limit > 0 && number("memory.max_usage_in_bytes") >= limit-chargedAhead
	return o
}

// readCounters reads a file of names and numbers, which is empty once its group
// is gone.
func readCounters(name string) map[string]int {
	data, _ := os.ReadFile(name)
	counters := map[string]int{}
	for line := range bytes.Lines(data) {
		if key, value, ok := strings.Cut(strings.TrimSpace(string(line)), " "); ok {
			counters[key], _ = strconv.Atoi(value)
		}
	}
	return counters
}

// What oom_score_adj is, from -1000 to 1000: added to the thousandths of the
// memory at hand that a process uses; the highest sum is killed. A container
// that is nobody's yet goes before any that is a pod's and uses up to a tenth
// of the memory more.
const (
	warmOOMScore   = 1000
	mostTenantOOM  = 900
	leastOverAgent = 10
)

// tenantOOMScore is the score of a pod's container by what it requests, after
// the kubelet's rule for the node's memory: with it those that use more than
// their request come before those that do not, whatever their size. To the
// agent every container is to be preferred.
func (r *Runc) tenantOOMScore(request int64) int {
	return tenantOOMScore(r.oomScoreAdj, request, r.opts.Cgroups.functionsMemory.Load())
}

func tenantOOMScore(agent int, request, all int64) int {
	score := mostTenantOOM
	if request > 0 && all > 0 {
		score = int(1000 - min(1000, request*1000/all))
	}
	return min(max(score, agent+leastOverAgent, 2), mostTenantOOM)
}

// setOOMScore says how soon a process is killed for want of memory, and its
// children to come. To lower it takes CAP_SYS_RESOURCE, unless the process was
// begun by somebody without.
func setOOMScore(pid, score int) error {
	if err := writeCgroupFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), strconv.Itoa(score)); err != nil {
		return fmt.Errorf("say how soon it is to be killed for want of memory: %w", err)
	}
	return nil
}

func ownOOMScore() (int, error) {
	data, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0, fmt.Errorf("the agent's own oom score: %w", err)
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, fmt.Errorf("the agent's own oom score: %w", err)
	}
	return own, nil
}
