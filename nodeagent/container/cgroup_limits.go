package container

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// A cgroupWrite puts a value into one of a cgroup's files.
type cgroupWrite struct {
	Controller string // cgroup v1's controller; v2 has a single hierarchy
	File       string
	Value      string
	Optional   bool // the kernel may lack this file
}

// limitWrites returns what has to be written, in this order, for r to hold.
// Zero fields are left alone.
func limitWrites(v2 bool, r Resources) []cgroupWrite {
	var writes []cgroupWrite
	if m := r.MilliCPU; m > 0 {
		weight := m
		if r.MilliCPURequest > 0 {
			weight = r.MilliCPURequest
		}
		writes = weightWrites(v2, cpuShares(weight))
		quota := strconv.FormatInt(cpuQuota(m), 10)
		if v2 {
			writes = append(writes, cgroupWrite{"cpu", "cpu.max", quota + " " + strconv.Itoa(cpuPeriod), false})
		} else { // the period is the kernel's own: nobody has changed it
			writes = append(writes, cgroupWrite{"cpu", "cpu.cfs_quota_us", quota, true})
		}
	}
	if r.MemoryBytes > 0 {
		writes = append(writes, memoryWrite(v2, r.MemoryBytes))
	}
	return writes
}

func memoryWrite(v2 bool, bytes int64) cgroupWrite {
	limit := strconv.FormatInt(bytes, 10)
	if v2 {
		return cgroupWrite{"memory", "memory.max", limit, false}
	}
	return cgroupWrite{"memory", "memory.limit_in_bytes", limit, false}
}

// weightWrites takes the weight as cgroup v1's shares.
func weightWrites(v2 bool, shares uint64) []cgroupWrite {
	if v2 {
		return []cgroupWrite{{"cpu", "cpu.weight", strconv.FormatUint(cpuWeight(shares), 10), false}}
	}
	return []cgroupWrite{{"cpu", "cpu.shares", strconv.FormatUint(shares, 10), false}}
}

// cpuWeight turns cgroup v1's shares [2, 262144] into v2's weight [1, 10000],
// along the straight line that Kubernetes has always drawn between them.
func cpuWeight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// SetLimits writes the limits of container id's cgroup. It is on the path of
// a cold request: it opens a handful of files and starts no process.
func (g *Cgroups) SetLimits(id string, r Resources) error {
	if err := g.write(filepath.Join(g.parent, id), limitWrites(g.v2, r)); err != nil {
		return fmt.Errorf("limit of container %s: %w", id, err)
	}
	return nil
}

// writeOne puts a value into a file of a group's folder.
func (g *Cgroups) writeOne(dir string, w cgroupWrite) error {
	var err error
	if w.File == "memory.limit_in_bytes" && g.swapAccount {
		err = writeMemoryAndSwap(dir, w.Value)
	} else {
		err = writeCgroupFile(filepath.Join(dir, w.File), w.Value)
	}
	if w.File == "cpu.cfs_quota_us" && errors.Is(err, syscall.EINVAL) {
		// v1 refuses more than a group above has. That one's limit holds
		// then, without one here.
		err = writeCgroupFile(filepath.Join(dir, w.File), "-1")
	}
	if err != nil && (!w.Optional || !errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	return nil
}

// writeMemoryAndSwap keeps cgroup v1's two limits equal, which means no swap.
// The second may never be the lower one, so the order depends on whether the
// limit shrinks (first first), as it does for whoever has none yet and whose
// request waits, or grows (EINVAL then, and second first).
func writeMemoryAndSwap(dir, limit string) error {
	memory, both := filepath.Join(dir, "memory.limit_in_bytes"), filepath.Join(dir, "memory.memsw.limit_in_bytes")
	err := writeCgroupFile(memory, limit)
	if err == nil {
		return writeCgroupFile(both, limit)
	}
	if !errors.Is(err, syscall.EINVAL) {
		return err
	}
	if err := writeCgroupFile(both, limit); err != nil {
		return err
	}
	return writeCgroupFile(memory, limit)
}

// writeCgroupFile writes value in one system call, as the kernel wants it, and
// never makes a file. The file is no os.File, for which package os would ask
// whether it can be polled: five system calls more, and a request waits.
func writeCgroupFile(name, value string) error {
	fd, err := openFile(name, unix.O_WRONLY|unix.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(value))
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", value, &fs.PathError{Op: "write", Path: name, Err: err})
	}
	return nil
}

// openFile opens a file for a system call or two.
func openFile(name string, flags int) (int, error) {
	for {
		fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0)
		switch err {
		case nil:
			return fd, nil
		case unix.EINTR:
		default:
			return -1, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}
