//go:build integration && cgroup2

package container

import (
	"bufio"
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
)

// holdEnv makes the test binary a process that takes so many bytes of memory, one
// MiB after the other, and holds them.
const holdEnv = "SANFRAN_TEST_HOLD"

func init() {
	size, err := strconv.Atoi(os.Getenv(holdEnv))
	if err != nil {
		return
	}
	// The parent puts it into its group first.
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	for range size >> 20 {
		page, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
		if err != nil || len(page) == 0 {
			os.Exit(1)
		}
	}
	fmt.Println("holds")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	os.Exit(0)
}

type holder struct {
	*exec.Cmd
	said *bufio.Reader
}

// hold starts a process in the group of container id that takes memory.
func hold(t *testing.T, g *Cgroups, id string, size int) *holder {
	t.Helper()
	dir := g.folder("memory", g.Path(id))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), holdEnv+"="+strconv.Itoa(size))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := writeCgroupFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	if err := setOOMScore(cmd.Process.Pid, tenantOOMScore(-900, 0, 1)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	return &holder{cmd, bufio.NewReader(out)}
}

func (h *holder) holds(t *testing.T) {
	t.Helper()
	if line, err := h.said.ReadString('\n'); line != "holds\n" {
		t.Fatalf("a process did not get its memory: %q, %v, %v", line, err, h.Wait())
	}
}

// killed reports whether the process was ended by SIGKILL.
func (h *holder) killed() bool {
	var exit *exec.ExitError
	return errors.As(h.Wait(), &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// TestControlGroupsV2 does to a real cgroup v2 what the agent does, in a group
// like a pod's. It needs a machine whose controllers are on v2: it is run in the
// guest of test/robustness/cgroup2.sh, and needs neither runc nor a root
// filesystem.
func TestControlGroupsV2(t *testing.T) {
	const root = "/sys/fs/cgroup"
	group := filepath.Join("sanfran-test", "pod", "agent")
	for dir := root; ; dir = filepath.Join(dir, strings.Split(group, "/")[strings.Count(dir, "/")-3]) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir == filepath.Join(root, group) {
			break
		}
		if err := enableV2(dir); err != nil {
			t.Fatal(err)
		}
	}
	pod := filepath.Join(root, group)
	put := func(file, value string) {
		t.Helper()
		if err := writeCgroupFile(filepath.Join(pod, file), value); err != nil {
			t.Fatal(err)
		}
	}
	put("memory.max", strconv.Itoa(400<<20))
	put("memory.swap.max", "0")
	put("cpu.max", "200000 100000")
	put("pids.max", "2048")
	put("cgroup.procs", strconv.Itoa(os.Getpid()))

	// Twice, as an agent that starts again does.
	for range 2 {
		g, err := PrepareCgroups(CgroupOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(read(t, "/proc/self/cgroup")); got != "0::/"+group+"/agent" || g.Path("a") != "/"+group+"/functions/a" {
			t.Errorf("the agent is in %q, a container in %q", got, g.Path("a"))
		}
	}
	g, err := PrepareCgroups(CgroupOptions{})
	if err != nil {
		t.Fatal(err)
	}
	share, err := g.Divide(Resources{MilliCPU: 4000, MemoryBytes: 1 << 30}, Resources{MilliCPU: 200, MemoryBytes: 100 << 20})
	if want := (Resources{MilliCPU: 1800, MemoryBytes: 300 << 20}); err != nil || share != want {
		t.Fatalf("Divide = %+v, %v; want %+v", share, err, want)
	}
	for file, want := range map[string]string{
		"functions/memory.max": strconv.Itoa(300 << 20), "functions/cpu.max": "180000 100000", "functions/cpu.weight": "71", "functions/pids.max": "1536",
		"agent/cpu.weight": "563", "agent/memory.min": strconv.Itoa(100 << 20), "agent/memory.max": "max",
	} {
		if got := strings.TrimSpace(read(t, filepath.Join(pod, file))); got != want {
			t.Errorf("%s is %q, want %q", file, got, want)
		}
	}

	t.Run("limits of a container", func(t *testing.T) {
		h := hold(t, g, "limited", 50<<20)
		h.holds(t)
		used, err := g.MemoryInUse("limited")
		if err != nil || used < 50<<20 || used > 70<<20 {
			t.Errorf("MemoryInUse = %d, %v", used, err)
		}
		// Held to what it uses, it lives.
		if err := g.SetLimits("limited", Resources{MilliCPU: 500, MilliCPURequest: 100, MemoryBytes: used + 16<<20}); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(pod, "functions/limited")
		for file, want := range map[string]string{"cpu.max": "50000 100000", "cpu.weight": "4"} {
			if got := strings.TrimSpace(read(t, filepath.Join(dir, file))); got != want {
				t.Errorf("%s is %q, want %q", file, got, want)
			}
		}
		if got := g.oom("limited"); got.kills != 0 {
			t.Errorf("it was ended: %+v", got)
		}
		left, err := g.MemoryLeft(0)
		if err != nil || left < 200<<20 || left > 250<<20 {
			t.Errorf("MemoryLeft = %d, %v", left, err)
		}
		if err := g.Remove(t.Context(), "limited"); err != nil {
			t.Error(err)
		}
		_ = h.Wait() // Remove has killed and reaped it
		if _, err := os.Stat(dir); err == nil {
			t.Error("the group is there after Remove")
		}
	})
	t.Run("at its own limit", func(t *testing.T) {
		if err := os.Mkdir(filepath.Join(pod, "functions/own"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := g.SetLimits("own", Resources{MemoryBytes: 40 << 20}); err != nil {
			t.Fatal(err)
		}
		put("functions/own/memory.swap.max", "0")
		if h := hold(t, g, "own", 100<<20); !h.killed() {
			t.Error("it lives")
		}
		if got := g.oom("own"); got != (oom{kills: 1, own: true}) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("at the limit of all", func(t *testing.T) {
		quiet := hold(t, g, "quiet", 60<<20)
		if err := setOOMScore(quiet.Process.Pid, 100); err != nil {
			t.Fatal(err)
		}
		quiet.holds(t)
		if h := hold(t, g, "greedy", 1<<30); !h.killed() {
			t.Error("it lives")
		}
		if got := g.oom("greedy"); got != (oom{kills: 1}) {
			t.Errorf("greedy: %+v", got)
		}
		if got := g.oom("quiet"); got.kills != 0 {
			t.Errorf("quiet: %+v", got)
		}
	})
	ids, err := g.List()
	if err != nil || len(ids) != 3 {
		t.Errorf("List = %q, %v", ids, err)
	}
	for _, id := range ids {
		if err := g.Remove(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}
