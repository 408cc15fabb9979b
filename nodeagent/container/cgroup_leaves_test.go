package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDivide(t *testing.T) {
	const mib = 1 << 20
	reserve := Resources{MilliCPU: 200, MemoryBytes: 192 * mib}
	for name, c := range map[string]struct {
		told, around, want Resources
		refused            string
	}{
		"nothing is known":               {},
		"what the agent was told":        {told: Resources{MilliCPU: 2000, MemoryBytes: 2048 * mib}, want: Resources{MilliCPU: 1800, MemoryBytes: 1856 * mib}},
		"the group has less":             {told: Resources{MilliCPU: 2000, MemoryBytes: 2048 * mib}, around: Resources{MilliCPU: 1500, MemoryBytes: 1024 * mib}, want: Resources{MilliCPU: 1300, MemoryBytes: 832 * mib}},
		"the group has more":             {told: Resources{MilliCPU: 2000, MemoryBytes: 1024 * mib}, around: Resources{MilliCPU: 4000, MemoryBytes: 4096 * mib}, want: Resources{MilliCPU: 1800, MemoryBytes: 832 * mib}},
		"only the group's is known":      {around: Resources{MemoryBytes: 1024 * mib}, want: Resources{MemoryBytes: 832 * mib}},
		"just enough":                    {told: Resources{MilliCPU: 300, MemoryBytes: 192*mib + LeastMemory}, want: Resources{MilliCPU: 100, MemoryBytes: LeastMemory}},
		"too little memory":              {told: Resources{MemoryBytes: 192*mib + LeastMemory - 1}, refused: "give it 288 MiB or more (the chart's agent.resources.limits.memory)"},
		"too little memory in the group": {told: Resources{MemoryBytes: 2048 * mib}, around: Resources{MemoryBytes: 128 * mib}, refused: "is 128 MiB, of which the agent keeps 192"},
		"too little processor":           {told: Resources{MilliCPU: 299, MemoryBytes: 2048 * mib}, refused: "give it 300m or more (the chart's agent.resources.limits.cpu)"},
	} {
		got, err := divide(c.told, c.around, reserve)
		if c.refused != "" {
			if !errors.Is(err, ErrTooSmall) || !strings.Contains(fmt.Sprint(err), c.refused) {
				t.Errorf("%s: %v; want an ErrTooSmall with %q", name, err, c.refused)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
}

// fakeGroup makes a folder that looks like a control group.
func fakeGroup(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var (
	v1Files = map[string]map[string]string{
		"cpu":    {"cgroup.procs": "", "cpu.shares": "1024\n", "cpu.cfs_period_us": "100000\n", "cpu.cfs_quota_us": "-1\n"},
		"memory": {"cgroup.procs": "", "memory.limit_in_bytes": "9223372036854771712\n"},
		"pids":   {"cgroup.procs": "", "pids.max": "max\n"},
	}
	v2Files = map[string]string{
		"cgroup.type": "domain\n", "cgroup.procs": "", "cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "",
		"cpu.weight": "100\n", "cpu.max": "max 100000\n", "memory.max": "max\n", "memory.min": "0\n", "pids.max": "max\n",
	}
)

// fakePodV1 is what an agent in a pod sees on cgroup v1, with each controller's
// limits; it returns the mount table.
func fakePodV1(t *testing.T, root string, limits map[string]map[string]string) (mountinfo string) {
	t.Helper()
	for controller, files := range v1Files {
		dir := filepath.Join(root, controller)
		for _, group := range []string{"", "agent", "functions"} {
			fakeGroup(t, filepath.Join(dir, group), files)
		}
		fakeGroup(t, dir, limits[controller])
		mountinfo += fmt.Sprintf("9 8 0:7 /kubepods/podx/agent %s rw - cgroup cgroup rw,%s\n", dir, controller)
	}
	return mountinfo
}

// golden is every file of the two leaves that is not as the kernel makes it.
func golden(t *testing.T, root string) map[string]string {
	t.Helper()
	untouched := map[string]bool{"": true}
	for _, files := range v1Files {
		for name, content := range files {
			untouched[name+content] = true
		}
	}
	for name, content := range v2Files {
		untouched[name+content] = true
	}
	got := map[string]string{}
	err := filepath.Walk(root, func(name string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && !untouched[filepath.Base(name)+read(t, name)] {
			short, _ := filepath.Rel(root, name)
			got[short] = strings.TrimSpace(read(t, name))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestLeavesV1(t *testing.T) {
	root := t.TempDir()
	mountinfo := fakePodV1(t, root, map[string]map[string]string{
		"cpu": {"cpu.cfs_quota_us": "200000\n"}, "memory": {"memory.limit_in_bytes": "2147483648\n"}, "pids": {"pids.max": "4096\n"},
	})
	g, err := prepareV1(root, "", mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	share, err := g.Divide(Resources{MilliCPU: 4000}, Resources{MilliCPU: 200, MemoryBytes: 192 << 20})
	if want := (Resources{MilliCPU: 1800, MemoryBytes: 1856 << 20}); err != nil || share != want {
		t.Errorf("Divide = %+v, %v; want %+v", share, err, want)
	}
	want := map[string]string{
		"cpu/cpu.cfs_quota_us": "200000", "memory/memory.limit_in_bytes": "2147483648", "pids/pids.max": "4096",
		"cpu/agent/cpu.shares": "14744", "cpu/functions/cpu.shares": "1843", "cpu/functions/cpu.cfs_quota_us": "180000",
		"memory/functions/memory.limit_in_bytes": "1946157056", "pids/functions/pids.max": "3584",
	}
	if diff := cmp.Diff(want, golden(t, root)); diff != "" {
		t.Errorf("the control groups' files (-want +got):\n%s", diff)
	}
}

func TestLeavesV2(t *testing.T) {
	const group = "kubepods/podx/agent"
	root := t.TempDir()
	for _, leaf := range []string{"", "/agent", "/functions"} {
		fakeGroup(t, filepath.Join(root, group+leaf), v2Files)
	}
	fakeGroup(t, filepath.Join(root, group), map[string]string{"cpu.max": "200000 100000\n", "memory.max": "2147483648\n", "pids.max": "4096\n"})
	g, err := prepareV2(root, "", "0::/"+group+"/agent\n")
	if err != nil {
		t.Fatal(err)
	}
	share, err := g.Divide(Resources{MilliCPU: 4000}, Resources{MilliCPU: 200, MemoryBytes: 192 << 20})
	if want := (Resources{MilliCPU: 1800, MemoryBytes: 1856 << 20}); err != nil || share != want {
		t.Errorf("Divide = %+v, %v; want %+v", share, err, want)
	}
	want := map[string]string{
		"cgroup.subtree_control": "+cpu +memory +pids", "cpu.max": "200000 100000", "memory.max": "2147483648", "pids.max": "4096",
		"agent/cpu.weight": "563", "agent/memory.min": "201326592",
		"functions/cgroup.subtree_control": "+cpu +memory +pids", "functions/cpu.weight": "71", "functions/cpu.max": "180000 100000",
		"functions/memory.max": "1946157056", "functions/pids.max": "3584",
	}
	if diff := cmp.Diff(want, golden(t, filepath.Join(root, group))); diff != "" {
		t.Errorf("the control groups' files (-want +got):\n%s", diff)
	}
}

// What is in the machine's root group, or in a group that somebody handed out,
// is not the agent's to move.
func TestOnlyAPodsProcessesAreMoved(t *testing.T) {
	for name, base := range map[string]string{"a machine's root": "", "a given group": "/given"} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			var mountinfo strings.Builder
			for controller, files := range v1Files {
				dir := filepath.Join(root, controller)
				fakeGroup(t, dir, files)
				fakeGroup(t, dir, map[string]string{"release_agent": "\n"})
				fakeGroup(t, filepath.Join(dir, base, "functions"), files)
				fmt.Fprintf(&mountinfo, "9 8 0:7 / %s rw - cgroup cgroup rw,%s\n", dir, controller)
			}
			g, err := prepareV1(root, base, mountinfo.String())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.Divide(Resources{MilliCPU: 1000, MemoryBytes: 1 << 30}, Resources{}); err != nil {
				t.Error(err)
			}
			for controller := range v1Files {
				if _, err := os.Stat(filepath.Join(root, controller, base, "agent")); err == nil {
					t.Errorf("%s: the processes were moved", controller)
				}
			}
		})
	}
}

func TestTenantOOMScore(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		agent        int
		request, all int64
		want         int
	}{
		{-997, 0, 2 * gib, 900},        // owed nothing: first, but after containers that are nobody's
		{-997, gib / 64, 2 * gib, 900}, // 993 by the kubelet's rule
		{-997, gib, 2 * gib, 500},
		{-997, 2 * gib, 2 * gib, 2},
		{-997, 3 * gib, 2 * gib, 2},
		{700, gib, 2 * gib, 710}, // the agent is never the one
		{-997, gib, 0, 900},      // nobody knows of what
	} {
		if got := tenantOOMScore(c.agent, c.request, c.all); got != c.want || got >= warmOOMScore {
			t.Errorf("tenantOOMScore(%d, %d, %d) = %d, want %d", c.agent, c.request, c.all, got, c.want)
		}
	}
}
