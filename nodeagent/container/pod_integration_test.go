//go:build integration

package container_test

import (
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
	h.open(t)
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
	// More than the pod has: the pod's own limit holds.
	if err := os.WriteFile("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", []byte("100000"), 0); err != nil {
		t.Fatal(err)
	}
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
