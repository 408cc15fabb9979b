//go:build integration

package container_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
)

// On cgroup v1 the kubelet mounts a privileged pod's own groups over
// /sys/fs/cgroup. Containers must get groups below those, so that the pod's
// limits hold for them. The test runs itself again in a mount namespace that
// looks like such a pod.
func TestControlGroupsOfAPodHoldItsContainers(t *testing.T) {
	if base := os.Getenv("SANFRAN_TEST_POD_GROUP"); base != "" {
		insidePod(t, base)
		return
	}
	controllers, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(controllers) == 0 {
		t.Fatal("this test is for cgroup v1; none is mounted at /sys/fs/cgroup")
	}
	base := fmt.Sprintf("sanfran-test-pod-%d", os.Getpid())
	for _, procs := range controllers {
		dir := filepath.Join(filepath.Dir(procs), base)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = unix.Rmdir(filepath.Join(dir, "agent")) // where something is limited
			if err := unix.Rmdir(dir); err != nil {
				t.Error(err)
			}
		})
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if all, err := os.ReadFile(filepath.Join(filepath.Dir(procs), name)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, name), all, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestControlGroupsOfAPodHoldItsContainers$", "-test.v")
	cmd.Env = append(os.Environ(), "SANFRAN_TEST_POD_GROUP="+base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("inside the pod: %v\n%s", err, out)
	}
}

func insidePod(t *testing.T, base string) {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	groups, _ := filepath.Glob("/sys/fs/cgroup/*/" + base)
	for _, group := range groups {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(group, filepath.Dir(group), "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	h := newHost(t)
	if err := h.runc.Close(); err != nil {
		t.Fatal(err)
	}
	h.removeBase(t)
	h.base = "" // as an agent in a pod has it
	for file, limit := range map[string]int{"memory/memory.limit_in_bytes": 1 << 30, "cpu/cpu.cfs_quota_us": 100000} {
		if err := os.WriteFile("/sys/fs/cgroup/"+file, []byte(strconv.Itoa(limit)), 0); err != nil {
			t.Fatal(err)
		}
	}
	h.open(t)
	// The agent is in its leaf, and so is what it starts; functions have the rest.
	for _, controller := range []string{"cpu", "memory", "pids"} {
		where, err := os.ReadFile("/proc/self/cgroup")
		if err != nil || !strings.Contains(string(where), ":"+controller+":/"+base+"/agent\n") {
			t.Errorf("%s: the machine sees the agent at\n%s%v", controller, where, err)
		}
	}
	share, err := h.cgroups.Divide(container.Resources{MilliCPU: 4000}, container.Resources{MilliCPU: 200, MemoryBytes: 256 << 20})
	if want := (container.Resources{MilliCPU: 800, MemoryBytes: 768 << 20}); err != nil || share != want {
		t.Fatalf("Divide = %+v, %v; want %+v", share, err, want)
	}
	for file, want := range map[string]string{
		"memory/functions/memory.limit_in_bytes": strconv.Itoa(768 << 20), "cpu/functions/cpu.cfs_quota_us": "80000",
		"cpu/functions/cpu.shares": "819", "cpu/agent/cpu.shares": "6552",
	} {
		if got, err := os.ReadFile("/sys/fs/cgroup/" + file); strings.TrimSpace(string(got)) != want {
			t.Errorf("%s = %q, %v; want %s", file, got, err, want)
		}
	}
	if _, err := h.cgroups.Divide(container.Resources{}, container.Resources{MemoryBytes: 1000 << 20}); !errors.Is(err, container.ErrTooSmall) {
		t.Errorf("1000 of 1024 MiB for the agent: %v", err)
	}
	s := h.serve(t, "inpod", nil)
	if err := s.SetResources(t.Context(), container.Resources{MilliCPU: 500, MemoryBytes: 100 << 20}); err != nil {
		t.Fatal(err)
	}
	procs, err := os.ReadFile("/sys/fs/cgroup/memory/functions/inpod/cgroup.procs")
	if err != nil || len(strings.Fields(string(procs))) != 1 {
		t.Fatalf("processes of the container's group: %q, %v", procs, err)
	}
	for _, pid := range strings.Fields(string(procs)) {
		where, err := os.ReadFile("/proc/" + pid + "/cgroup")
		if err != nil || !strings.Contains(string(where), ":memory:/"+base+"/functions/inpod\n") {
			t.Errorf("the machine sees the container at\n%s%v", where, err)
		}
	}
	if limit, err := os.ReadFile("/sys/fs/cgroup/memory/functions/inpod/memory.limit_in_bytes"); strings.TrimSpace(string(limit)) != strconv.Itoa(100<<20) {
		t.Errorf("memory limit = %q, %v", limit, err)
	}
	// More than functions have: their limit holds.
	if err := s.SetResources(t.Context(), container.Resources{MilliCPU: 4000}); err != nil {
		t.Errorf("a limit above the pod's: %v", err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}
