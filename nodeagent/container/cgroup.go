package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cgroups is where this agent's containers have their control groups: one
// folder "functions" with a child per container, in each of cgroup v1's
// hierarchies or in v2's only one.
//
// The agent, with its whole group, whoever else is in it, moves into a sibling
// folder "agent", so that Divide can keep the one from the other's part. Only a
// machine's root group is left as it is: what is in there is not the agent's.
//
// It is safe for concurrent use.
type Cgroups struct {
	v2          bool
	swapAccount bool
	mounts      map[string]string // controller → mount point; for v2 the one key ""
	base        string            // holds the leaves, below each mount point
	parent      string            // of the containers' groups, below each mount point
	leaf        bool              // the agent is in a leaf of its own

	// functionsMemory is what all containers together may have, allMemory what
	// they and the agent may; 0: not limited.
	functionsMemory, allMemory atomic.Int64
}

// CgroupOptions says where the containers' groups go. The zero value is right
// for an agent in a pod.
type CgroupOptions struct {
	// Root is the folder of all cgroup mounts, empty for /sys/fs/cgroup.
	Root string
	// Base is the group below which "agent" and "functions" are made, as an
	// absolute path below the mounts; empty for the agent's own group. A
	// given Base is the caller's to hand out: the agent is not moved then.
	Base string
}

// controllers are those that containers are limited with.
var controllers = []string{"cpu", "memory", "pids"}

// PrepareCgroups finds this machine's control groups and makes ready the place
// for those of the containers. It may be called again by a later life of the
// agent and finds the same place.
func PrepareCgroups(opts CgroupOptions) (*Cgroups, error) {
	root := opts.Root
	if root == "" {
		root = "/sys/fs/cgroup"
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find the agent's control group: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return nil, fmt.Errorf("control groups at %s: %w (is the cgroup filesystem mounted?)", root, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return prepareV2(root, opts.Base, string(self))
	}
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find the control group mounts: %w", err)
	}
	return prepareV1(root, opts.Base, string(mountinfo))
}

// prepareV1 also serves the hybrid layout, whose controllers are on v1.
//
// The kubelet mounts a pod's own groups over /sys/fs/cgroup, so there the top
// of each mount is the agent's own group, and the agent moves into its leaf.
// Elsewhere the top is the machine's, and so are its limits. The leaves are
// made where something is limited; in other hierarchies the OCI runtime makes
// the folders, and knows how to fill in those of cpuset.
func prepareV1(root, base, mountinfo string) (*Cgroups, error) {
	g := &Cgroups{mounts: parseV1Mounts(root, mountinfo), base: path.Join("/", base), parent: path.Join("/", base, "functions")}
	for _, controller := range controllers {
		mount := g.mounts[controller]
		if mount == "" {
			return nil, fmt.Errorf("no cgroup v1 controller %q is mounted below %s; mount it or boot with cgroup v2", controller, root)
		}
		if err := os.MkdirAll(filepath.Join(mount, g.parent), 0o755); err != nil {
			return nil, fmt.Errorf("make the functions' control group: %w (the agent needs a writable %s)", err, mount)
		}
		// The kernel shows release_agent in the machine's root group alone.
		if _, err := os.Stat(filepath.Join(mount, "release_agent")); base != "" || err == nil {
			continue
		}
		if err := moveProcesses(mount, filepath.Join(mount, "agent")); err != nil {
			return nil, err
		}
		g.leaf = true
	}
	_, err := os.Stat(filepath.Join(g.mounts["memory"], g.parent, "memory.memsw.limit_in_bytes"))
	g.swapAccount = err == nil
	return g, nil
}

func prepareV2(root, base, self string) (_ *Cgroups, err error) {
	g := &Cgroups{v2: true, swapAccount: true, mounts: map[string]string{"": root}}
	own := base == ""
	if own {
		if base, err = ownV2Group(root, self); err != nil {
			return nil, err
		}
	}
	dir := filepath.Join(root, base)
	g.base, g.parent = path.Join("/", base), path.Join("/", base, "functions")
	functions := filepath.Join(dir, "functions")
	// "functions" first: its presence tells a later life of the agent, found
	// in a group named "agent", that this group is one made here.
	if err := os.MkdirAll(functions, 0o755); err != nil {
		return nil, fmt.Errorf("make the functions' control group: %w (the agent needs a writable %s)", err, root)
	}
	// Only the machine's root group has no cgroup.type; it alone may hold
	// processes beside children with limits.
	if _, statErr := os.Stat(filepath.Join(dir, "cgroup.type")); own && statErr == nil {
		if err := moveProcesses(dir, filepath.Join(dir, "agent")); err != nil {
			return nil, err
		}
		g.leaf = true
	}
	for _, d := range []string{dir, functions} {
		if err := enableV2(d); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// ownV2Group returns the group of the agent before it was moved, below root.
func ownV2Group(root, self string) (string, error) {
	for line := range strings.Lines(self) {
		group, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::")
		if !ok {
			continue
		}
		if strings.Contains(group, "..") {
			return "", fmt.Errorf("the agent's control group %q is outside of %s: run it with the host's cgroup namespace or one of its own", group, root)
		}
		if path.Base(group) == "agent" {
			if _, err := os.Stat(filepath.Join(root, path.Dir(group), "functions")); err == nil {
				group = path.Dir(group)
			}
		}
		if _, err := os.Stat(filepath.Join(root, group, "cgroup.procs")); err != nil {
			return "", fmt.Errorf("the agent's control group %q: %w (is %s of another cgroup namespace?)", group, err, root)
		}
		return group, nil
	}
	return "", fmt.Errorf("no cgroup v2 group in %q", self)
}

// moveProcesses moves every process of one group to another, until a look
// finds none: processes start others meanwhile.
func moveProcesses(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("make the agent's control group: %w", err)
	}
	const tries = 100
	for range tries {
		pids, err := readPids(filepath.Join(from, "cgroup.procs"))
		if err != nil {
			return fmt.Errorf("list the agent's control group: %w", err)
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			err := writeCgroupFile(filepath.Join(to, "cgroup.procs"), strconv.Itoa(pid))
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("move process %d out of control group %s: %w", pid, from, err)
			}
		}
	}
	return fmt.Errorf("control group %s still has processes after %d rounds of moving them", from, tries)
}

// enableV2 lets the children of dir be limited, by those controllers that the
// machine has.
func enableV2(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	for _, c := range controllers {
		if !slices.Contains(strings.Fields(string(have)), c) {
			return fmt.Errorf("control group %s has no controller %q (it has %q): the groups above must enable it in cgroup.subtree_control", dir, c, strings.TrimSpace(string(have)))
		}
	}
	value := "+" + strings.Join(controllers, " +")
	if err := writeCgroupFile(filepath.Join(dir, "cgroup.subtree_control"), value); err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	return nil
}

// Path is container id's group as an OCI spec names it.
func (g *Cgroups) Path(id string) string { return path.Join(g.parent, id) }

// dir is the folder of container id's group under a controller.
func (g *Cgroups) dir(controller, id string) (string, bool) {
	if g.v2 {
		controller = ""
	}
	mount, ok := g.mounts[controller]
	return filepath.Join(mount, g.parent, id), ok
}

// dirs are the folders of container id's group in all hierarchies; of the
// containers' parent if id is empty.
func (g *Cgroups) dirs(id string) []string {
	var dirs []string
	for _, mount := range g.mounts {
		dirs = append(dirs, filepath.Join(mount, g.parent, id))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// List returns the ids of all containers that have a group left anywhere.
func (g *Cgroups) List() ([]string, error) {
	var ids []string
	for _, dir := range g.dirs("") {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list control groups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() {
				ids = append(ids, e.Name())
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Remove kills what is left in container id's group and removes it. It returns
// nil if there was none, and waits for the processes to end until ctx does.
func (g *Cgroups) Remove(ctx context.Context, id string) error {
	if id == "" {
		return fmt.Errorf("remove control group: %w: empty container id", ErrInvalid)
	}
	killed := map[int]bool{}
	defer reap(killed)
	for _, dir := range g.dirs(id) {
		if err := removeGroup(ctx, dir, killed); err != nil {
			return fmt.Errorf("remove control group of container %s: %w", id, err)
		}
	}
	return nil
}

// Close removes the containers' parent group, once it is empty.
func (g *Cgroups) Close() error {
	var errs []error
	for _, dir := range g.dirs("") {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove control group %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// removeGroup removes a group and those below it, deepest first. A process
// that was just killed holds its group for a moment: EBUSY means try again.
// The pids of the processes it killed are added to killed.
func removeGroup(ctx context.Context, dir string, killed map[int]bool) error {
	wait := time.Millisecond
	for {
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		children, readErr := os.ReadDir(dir)
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
			return readErr
		}
		for _, c := range children {
			if c.IsDir() {
				if err := removeGroup(ctx, filepath.Join(dir, c.Name()), killed); err != nil {
					return err
				}
			}
		}
		pids, readErr := readPids(filepath.Join(dir, "cgroup.procs"))
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) && !errors.Is(readErr, unix.ENODEV) {
			return readErr
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: it has just ended
			killed[pid] = true
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is still in use by processes %v: %w", dir, pids, err)
		case <-time.After(wait):
			wait = min(2*wait, 50*time.Millisecond)
		}
	}
}

// readPids reads a cgroup.procs file. Processes outside of the reader's pid
// namespace show as 0 and are left out: nothing can be done to them.
func readPids(name string) ([]int, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var pids []int
	for field := range strings.FieldsSeq(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// parseV1Mounts returns the mount point of every cgroup v1 controller below
// root, by name, and of the hybrid layout's v2 hierarchy as "unified".
func parseV1Mounts(root, mountinfo string) map[string]string {
	mounts := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		m, ok := parseMountinfo(line)
		if !ok || !strings.HasPrefix(m.MountPoint, root+"/") {
			continue
		}
		if m.FSType == "cgroup2" { // the hybrid layout's: without controllers, but containers have groups there
			mounts["unified"] = m.MountPoint
			continue
		}
		if m.FSType != "cgroup" {
			continue
		}
		for option := range strings.SplitSeq(m.SuperOptions, ",") {
			switch option {
			case "rw", "ro", "xattr", "clone_children", "noprefix":
			default:
				if _, seen := mounts[option]; !seen {
					mounts[option] = m.MountPoint
				}
			}
		}
	}
	return mounts
}
