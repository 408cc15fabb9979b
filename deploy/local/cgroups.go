package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// neededControllers are those that a kubelet needs.
var neededControllers = []string{"cpu", "cpuset", "memory", "pids"}

// unifiedCgroups tells whether the machine has cgroup v2 alone.
func unifiedCgroups() bool {
	var stat unix.Statfs_t
	return unix.Statfs(cgroupMount, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// cgroupRoots are the roots of the machine's cgroup trees: one with cgroup v2,
// one per controller with v1.
func cgroupRoots() ([]string, error) {
	if unifiedCgroups() {
		return []string{cgroupMount}, nil
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseCgroupRoots(string(raw)), nil
}

// parseCgroupRoots finds the mount points of cgroup trees in the text of a
// mountinfo file, each tree once.
func parseCgroupRoots(mountinfo string) []string {
	var roots []string
	devices := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		if dash < 5 || dash+1 >= len(fields) || !strings.HasPrefix(fields[4], cgroupMount+"/") {
			continue
		}
		if kind := fields[dash+1]; (kind == "cgroup" || kind == "cgroup2") && !devices[fields[2]] {
			devices[fields[2]] = true
			roots = append(roots, unescapeMount(fields[4]))
		}
	}
	return roots
}

// makeCgroups makes the cgroup name in every tree, ready for a kubelet, and
// below it a leaf for the node's own programs, which it returns.
func makeCgroups(name string) (leaves []string, err error) {
	roots, err := cgroupRoots()
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		dir := filepath.Join(root, name)
		leaf := filepath.Join(dir, "system")
		if unifiedCgroups() {
			// A controller is to be had below a cgroup only if every one
			// above passes it on.
			for _, parent := range []string{root, dir} {
				if err := os.MkdirAll(parent, 0o755); err != nil {
					return nil, err
				}
				if err := passControllers(parent); err != nil {
					return nil, err
				}
			}
		}
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			return nil, err
		}
		for _, one := range []string{dir, leaf} {
			if err := copyCpuset(one); err != nil {
				return nil, err
			}
		}
		leaves = append(leaves, leaf)
	}
	return leaves, nil
}

// passControllers lets the children of a cgroup v2 have its controllers.
func passControllers(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	available := strings.Fields(string(raw))
	for _, controller := range neededControllers {
		if !slices.Contains(available, controller) {
			return fmt.Errorf("cgroup %s has no %s controller; pass it on from the cgroup above (cgroup.subtree_control)", dir, controller)
		}
	}
	for _, controller := range available {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
		if err != nil && slices.Contains(neededControllers, controller) {
			return fmt.Errorf("pass the %s controller on from cgroup %s: %w; processes in that very cgroup are in the way", controller, dir, err)
		}
	}
	return nil
}

// copyCpuset gives a new cgroup v1 the CPUs and memory nodes of the one above,
// without which no process can join it.
func copyCpuset(dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, file))
		if errors.Is(err, fs.ErrNotExist) || unifiedCgroups() {
			continue
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(have)) > 0 {
			continue
		}
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), above, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// killCgroup ends every process in the cgroup name and removes it, in every
// tree.
func killCgroup(name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	var last error
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		last = nil
		for _, root := range roots {
			if err := killTree(filepath.Join(root, name)); err != nil {
				last = err
			}
		}
		if last == nil {
			return nil
		}
	}
	return fmt.Errorf("cgroup %s cannot be removed: %w", name, last)
}

// killTree kills what is in dir and below and removes it, the deepest first.
func killTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := killTree(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err == nil {
		for _, field := range strings.Fields(string(raw)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
