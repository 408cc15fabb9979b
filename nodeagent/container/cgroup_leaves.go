package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Least that the containers together must be given: so much takes one that is
// warm and has something to do.
const (
	LeastMemory   = 96 << 20
	LeastMilliCPU = 100
)

// agentWeight is how much more the agent weighs than all functions together
// when they want the same processors. It needs little, but that at once: it
// holds the requests of those that are about to run.
const agentWeight = 8

// pidsReserve is how many of the group's processes and threads, if they are
// limited, are the agent's.
const pidsReserve = 512

// ErrTooSmall is wrapped by Divide's error when there is less to divide than the
// agent's reserve and one container need.
var ErrTooSmall = errors.New("too little for the agent and a container")

// Divide gives the functions' group what all have together, less the agent's
// reserve, and returns that: what containers can really have. all and reserve
// are of processor and memory; a zero field of all is not known, and not
// limited unless the group around has a limit by itself. It is called once, when
// no container lives yet.
//
// The agent's group has no ceiling of its own: its reserve is what the others
// cannot take, and it may use what they leave.
func (g *Cgroups) Divide(all, reserve Resources) (functions Resources, err error) {
	around, err := g.limitsAround()
	if err != nil {
		return Resources{}, err
	}
	functions, err = divide(all, around, reserve)
	if err != nil {
		return Resources{}, err
	}
	pids, err := g.pidsAround()
	if err != nil {
		return Resources{}, err
	}
	if err := g.write(g.parent, functionsWrites(g.v2, functions, pids)); err != nil {
		return Resources{}, fmt.Errorf("limit of all functions: %w", err)
	}
	if g.leaf {
		if err := g.write(filepath.Join(g.base, "agent"), agentWrites(g.v2, functions, reserve)); err != nil {
			return Resources{}, fmt.Errorf("the agent's reserve: %w", err)
		}
	}
	g.functionsMemory.Store(functions.MemoryBytes)
	if g.leaf { // otherwise others are in the group around
		g.allMemory.Store(around.MemoryBytes)
	}
	return functions, nil
}

// divide is what is left for functions of the lesser of what the agent was told
// and what the group around has.
func divide(told, around, reserve Resources) (Resources, error) {
	functions := Resources{MilliCPU: lesser(told.MilliCPU, around.MilliCPU), MemoryBytes: lesser(told.MemoryBytes, around.MemoryBytes)}
	if m := functions.MemoryBytes; m > 0 && m < reserve.MemoryBytes+LeastMemory {
		return Resources{}, fmt.Errorf("%w: the memory limit of the agent's pod is %d MiB, of which the agent keeps %d; give it %d MiB or more (the chart's agent.resources.limits.memory), or the agent less (agent.reserve.memory)",
			ErrTooSmall, m>>20, reserve.MemoryBytes>>20, (reserve.MemoryBytes+LeastMemory)>>20)
	}
	if m := functions.MilliCPU; m > 0 && m < reserve.MilliCPU+LeastMilliCPU {
		return Resources{}, fmt.Errorf("%w: the cpu limit of the agent's pod is %dm, of which the agent keeps %dm; give it %dm or more (the chart's agent.resources.limits.cpu), or the agent less (agent.reserve.cpu)",
			ErrTooSmall, m, reserve.MilliCPU, reserve.MilliCPU+LeastMilliCPU)
	}
	if functions.MilliCPU > 0 {
		functions.MilliCPU -= reserve.MilliCPU
	}
	if functions.MemoryBytes > 0 {
		functions.MemoryBytes -= reserve.MemoryBytes
	}
	return functions, nil
}

// lesser of two limits, of which 0 is none.
func lesser(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// functionsWrites is what holds all functions to their part. The quota is what
// keeps processor time for the agent: were the functions only lighter, they
// could use up the quota of the group that both are in.
func functionsWrites(v2 bool, functions Resources, pids int64) []cgroupWrite {
	writes := limitWrites(v2, functions)
	if functions.MilliCPU == 0 {
		writes = append(weightWrites(v2, weightUnit), writes...)
	}
	if pids > pidsReserve {
		writes = append(writes, cgroupWrite{"pids", "pids.max", strconv.FormatInt(pids-pidsReserve, 10), false})
	}
	return writes
}

// weightUnit is the functions' weight where their share is not known.
const weightUnit = 1024

// agentWrites is what keeps the agent from waiting for functions: its weight,
// and on v2 that its memory is not reclaimed for theirs.
func agentWrites(v2 bool, functions, reserve Resources) []cgroupWrite {
	shares := uint64(weightUnit)
	if functions.MilliCPU > 0 {
		shares = cpuShares(functions.MilliCPU)
	}
	writes := weightWrites(v2, min(agentWeight*shares, 262144))
	if v2 && reserve.MemoryBytes > 0 {
		writes = append(writes, cgroupWrite{"memory", "memory.min", strconv.FormatInt(reserve.MemoryBytes, 10), false})
	}
	return writes
}

// limitsAround are those of the group that holds both leaves, 0 for none.
func (g *Cgroups) limitsAround() (Resources, error) {
	var r Resources
	read := func(controller, file string) (string, error) {
		data, err := os.ReadFile(filepath.Join(g.folder(controller, g.base), file))
		if errors.Is(err, fs.ErrNotExist) { // the machine's root group has none
			return "", nil
		}
		return string(data), err
	}
	memoryFile := "memory.limit_in_bytes"
	if g.v2 {
		memoryFile = "memory.max"
	}
	memory, err := read("memory", memoryFile)
	if err != nil {
		return r, fmt.Errorf("memory limit of the agent's control group: %w", err)
	}
	if r.MemoryBytes, err = parseLimit(memory); err != nil {
		return r, fmt.Errorf("memory limit of the agent's control group: %w", err)
	}
	if g.v2 {
		cpu, err := read("cpu", "cpu.max")
		if err != nil {
			return r, fmt.Errorf("cpu limit of the agent's control group: %w", err)
		}
		quota, period, _ := strings.Cut(strings.TrimSpace(cpu), " ")
		r.MilliCPU, err = milliCPU(quota, period)
		return r, err
	}
	quota, err := read("cpu", "cpu.cfs_quota_us")
	if err != nil {
		return r, fmt.Errorf("cpu limit of the agent's control group: %w", err)
	}
	period, err := read("cpu", "cpu.cfs_period_us")
	if err != nil {
		return r, fmt.Errorf("cpu limit of the agent's control group: %w", err)
	}
	r.MilliCPU, err = milliCPU(quota, period)
	return r, err
}

func (g *Cgroups) pidsAround() (int64, error) {
	data, err := os.ReadFile(filepath.Join(g.folder("pids", g.base), "pids.max"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("limit of processes of the agent's control group: %w", err)
	}
	return parseLimit(string(data))
}

// parseLimit reads one limit of bytes or processes; none is 0. What cgroup v1
// shows for none is a number beyond every machine.
func parseLimit(text string) (int64, error) {
	const beyond = 1 << 60
	text = strings.TrimSpace(text)
	if text == "" || text == "max" || text == "-1" {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the limit is %q", text)
	}
	if n >= beyond {
		return 0, nil
	}
	return n, nil
}

func milliCPU(quota, period string) (int64, error) {
	q, err := parseLimit(quota)
	if err != nil || q == 0 {
		return 0, err
	}
	p, err := parseLimit(period)
	if err != nil || p == 0 {
		return 0, fmt.Errorf("the processor quota is %q of %q: %w", quota, period, ErrInvalid)
	}
	return q * 1000 / p, nil
}

// folder of a group under a controller.
func (g *Cgroups) folder(controller, group string) string {
	if g.v2 {
		controller = ""
	}
	return filepath.Join(g.mounts[controller], group)
}

// write puts values into a group's files.
func (g *Cgroups) write(group string, writes []cgroupWrite) error {
	for _, w := range writes {
		if err := g.writeOne(g.folder(w.Controller, group), w); err != nil {
			return err
		}
	}
	return nil
}
