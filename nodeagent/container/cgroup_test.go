package container

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseV1Mounts(t *testing.T) {
	const hybrid = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:38 / /elsewhere/cgroup/memory rw,relatime - cgroup cgroup rw,memory
`
	// What a privileged pod sees: its own group mounted over each hierarchy.
	const pod = `900 800 0:29 /kubepods/burstable/podx/ctr /sys/fs/cgroup/cpu rw,nosuid - cgroup cgroup rw,cpu
901 800 0:32 /kubepods/burstable/podx/ctr /sys/fs/cgroup/memory rw,nosuid master:9 - cgroup cgroup rw,memory
`
	for name, c := range map[string]struct {
		mountinfo string
		want      map[string]string
	}{
		"hybrid machine": {hybrid, map[string]string{
			"cpu": "/sys/fs/cgroup/cpu,cpuacct", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct", "memory": "/sys/fs/cgroup/memory",
			"name=systemd": "/sys/fs/cgroup/systemd", "unified": "/sys/fs/cgroup/unified",
		}},
		"pod":     {pod, map[string]string{"cpu": "/sys/fs/cgroup/cpu", "memory": "/sys/fs/cgroup/memory"}},
		"nothing": {"", map[string]string{}},
		"garbage": {"x\n - \n1 2 3 - cgroup cgroup rw\n", map[string]string{}},
	} {
		if diff := cmp.Diff(c.want, parseV1Mounts("/sys/fs/cgroup", c.mountinfo)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestLimitWrites(t *testing.T) {
	for name, c := range map[string]struct {
		v2   bool
		r    Resources
		want []cgroupWrite
	}{
		"nothing": {true, Resources{}, nil},
		"v1": {false, Resources{MilliCPU: 1500, MemoryBytes: 1 << 20}, []cgroupWrite{
			{File: "cpu.shares", Value: "1536"}, {File: "cpu.cfs_quota_us", Value: "150000"},
			{File: "memory.limit_in_bytes", Value: "1048576"},
		}},
		"v2": {true, Resources{MilliCPU: 1000, MemoryBytes: 1 << 20}, []cgroupWrite{
			{File: "cpu.weight", Value: "39"}, {File: "cpu.max", Value: "100000 100000"}, {File: "memory.max", Value: "1048576"},
		}},
		"v2, least cpu": {true, Resources{MilliCPU: 10}, []cgroupWrite{{File: "cpu.weight", Value: "1"}, {File: "cpu.max", Value: "1000 100000"}}},
	} {
		got := limitWrites(c.v2, c.r)
		if diff := cmp.Diff(c.want, got, cmpopts.IgnoreFields(cgroupWrite{}, "Controller", "Optional")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestMemoryInUse(t *testing.T) {
	for _, c := range []struct {
		usage, stat, prefix string
		want                int64
		fails               bool
	}{
		{usage: "1000\n", stat: "anon 500\ninactive_file 100\nactive_file 200\nshmem 40\n", want: 700},
		{usage: "1000\n", stat: "inactive_file 1\nactive_file 2\ntotal_inactive_file 100\ntotal_active_file 200\n", prefix: "total_", want: 700},
		{usage: "10\n", stat: "inactive_file 100\n", want: 0},
		{usage: "10\n", want: 10},
		{usage: "max\n", fails: true},
		{usage: "10\n", stat: "active_file many\n", fails: true},
	} {
		got, err := memoryInUse(c.usage, c.stat, c.prefix)
		if got != c.want || (err != nil) != c.fails {
			t.Errorf("memoryInUse(%q, %q, %q) = %d, %v; want %d, failure %v", c.usage, c.stat, c.prefix, got, err, c.want, c.fails)
		}
	}
}

func TestReadOOM(t *testing.T) {
	for name, c := range map[string]struct {
		v2    bool
		files map[string]string
		want  oom
	}{
		"v1, at its own limit":                    {false, map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "memory.failcnt": "14\n"}, oom{kills: 2, own: true}},
		"v1, at the limit around":                 {false, map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "memory.failcnt": "0\n"}, oom{kills: 1}},
		"v1, at its own limit of memory and swap": {false, map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "memory.failcnt": "0\n", "memory.memsw.failcnt": "9\n"}, oom{kills: 1, own: true}},
		"v1, at its own limit, uncounted":         {false, map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "memory.failcnt": "0\n", "memory.limit_in_bytes": "67108864\n", "memory.max_usage_in_bytes": "67100672\n"}, oom{kills: 1, own: true}},
		"v1, never near its own limit":            {false, map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "memory.failcnt": "0\n", "memory.limit_in_bytes": "67108864\n", "memory.max_usage_in_bytes": "60000000\n"}, oom{kills: 1}},
		"v1, nothing":                             {false, map[string]string{"memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n", "memory.failcnt": "3\n"}, oom{own: true}},
		"v2, at its own limit":                    {true, map[string]string{"memory.events": "low 0\nhigh 0\nmax 7\noom 3\noom_kill 1\noom_group_kill 0\n"}, oom{kills: 1, own: true}},
		"v2, at the limit around":                 {true, map[string]string{"memory.events": "low 0\nhigh 0\nmax 7\noom 0\noom_kill 1\noom_group_kill 0\n"}, oom{kills: 1}},
		"v2, gone":                                {true, nil, oom{}},
		"v1, of an unknown kind":                  {false, map[string]string{"memory.oom_control": "oom_kill x\n"}, oom{}},
	} {
		g := &Cgroups{v2: c.v2, mounts: map[string]string{"": t.TempDir(), "memory": t.TempDir()}, parent: "/functions"}
		dir := g.folder("memory", "/functions/a1")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, content := range c.files {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := g.oom("a1"); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// fakeV2 is a folder that looks like a cgroup v2 group to PrepareCgroups.
func fakeV2(t *testing.T, root, group string, files map[string]string) {
	t.Helper()
	dir := filepath.Join(root, group)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"cgroup.controllers": "cpuset cpu io memory pids\n", "cgroup.subtree_control": "", "cgroup.procs": ""}
	for name, content := range files {
		all[name] = content
	}
	for name, content := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestPrepareV2(t *testing.T) {
	const group = "/kubepods/podx/agent-container"
	t.Run("in a pod", func(t *testing.T) {
		root := t.TempDir()
		fakeV2(t, root, group, map[string]string{"cgroup.type": "domain\n"})
		fakeV2(t, root, group+"/functions", nil)
		g, err := prepareV2(root, "", "0::"+group+"\n")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := g.Path("a1"), group+"/functions/a1"; got != want {
			t.Errorf("Path = %s, want %s", got, want)
		}
		for _, dir := range []string{group, group + "/functions"} {
			if got := read(t, filepath.Join(root, dir, "cgroup.subtree_control")); got != "+cpu +memory +pids" {
				t.Errorf("%s: subtree_control = %q", dir, got)
			}
		}
		if _, err := os.Stat(filepath.Join(root, group, "agent")); err != nil {
			t.Errorf("no group for the agent itself: %v", err)
		}
	})
	t.Run("again after the agent was moved", func(t *testing.T) {
		root := t.TempDir()
		fakeV2(t, root, group, nil)
		fakeV2(t, root, group+"/agent", nil)
		fakeV2(t, root, group+"/functions", nil)
		g, err := prepareV2(root, "", "0::"+group+"/agent\n")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := g.Path("a1"), group+"/functions/a1"; got != want {
			t.Errorf("Path = %s, want %s", got, want)
		}
	})
	t.Run("a group that only happens to be named agent", func(t *testing.T) {
		root := t.TempDir()
		fakeV2(t, root, "/x/agent", nil)
		fakeV2(t, root, "/x/agent/functions", nil)
		g, err := prepareV2(root, "", "0::/x/agent\n")
		if err != nil {
			t.Fatal(err)
		}
		if got, want := g.Path("a1"), "/x/agent/functions/a1"; got != want {
			t.Errorf("Path = %s, want %s", got, want)
		}
	})
	t.Run("refused", func(t *testing.T) {
		root := t.TempDir()
		fakeV2(t, root, "/poor", map[string]string{"cgroup.controllers": "pids\n"})
		for _, self := range []string{"0::/../sibling\n", "0::/missing\n", "0::/poor\n", "4:memory:/x\n", ""} {
			if _, err := prepareV2(root, "", self); err == nil {
				t.Errorf("/proc/self/cgroup %q was accepted", self)
			}
		}
	})
}

func TestMountinfoEscapes(t *testing.T) {
	m, ok := parseMountinfo(`1 2 0:3 / /a\040b\134c rw - tmpfs tmpfs rw,size=1k`)
	if !ok || m.MountPoint != `/a b\c` {
		t.Errorf("parseMountinfo = %+v, %v", m, ok)
	}
}

func TestHostIDsAreNeverSharedByTheLiving(t *testing.T) {
	var ids hostIDs
	seen := map[uint32]bool{}
	for range hostRanges {
		id, err := ids.take()
		if err != nil {
			t.Fatal(err)
		}
		if seen[id] || id < firstHostID || id > 0x7FFE_0000-idRange {
			t.Fatalf("range %#x", id)
		}
		seen[id] = true
	}
	if id, err := ids.take(); err == nil {
		t.Errorf("got %#x though all are in use", id)
	}
	ids.give(firstHostID)
	if id, err := ids.take(); id != firstHostID || err != nil {
		t.Errorf("take = %#x, %v; want the one given back", id, err)
	}
}
