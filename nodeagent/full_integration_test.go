//go:build integration

package nodeagent

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// makePodGroup makes control groups as a kubelet makes those of a pod, with
// limits by controller and file, and removes all of them at the end.
func makePodGroup(t *testing.T, limits map[string]string) (base string) {
	t.Helper()
	base = fmt.Sprintf("sanfran-test-agent-%d", os.Getpid())
	mounts, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil || len(mounts) == 0 {
		t.Fatal("this test is for cgroup v1; none is mounted at /sys/fs/cgroup")
	}
	for _, procs := range mounts {
		dir := filepath.Join(filepath.Dir(procs), base)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			for _, leaf := range []string{"functions", "agent", ""} {
				if err := unix.Rmdir(filepath.Join(dir, leaf)); err != nil && err != unix.ENOENT {
					t.Errorf("remove %s/%s: %v", dir, leaf, err)
				}
			}
		})
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			if all, err := os.ReadFile(filepath.Join(filepath.Dir(procs), name)); err == nil {
				limits[filepath.Base(filepath.Dir(procs))+"/"+name] = string(all)
			}
		}
	}
	for file, value := range limits {
		controller, name := filepath.Split(file)
		if err := os.WriteFile(filepath.Join("/sys/fs/cgroup", controller, base, name), []byte(value), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return base
}

// enterPodGroup makes this process one of a pod: in its groups, which it sees as
// the top of what is mounted. Its mounts must be its own.
func enterPodGroup(base string) error {
	groups, err := filepath.Glob("/sys/fs/cgroup/*/" + base)
	if err != nil {
		return err
	}
	for _, group := range groups {
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return err
		}
		if err := unix.Mount(group, filepath.Dir(group), "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// TestAFullNodeWakesAtOnce wakes every parked pod of a node at once that has room
// for a few of them: the agent lives, and answers as when nothing is going on;
// each request is served or told that the node is full; nobody is ended for want
// of memory.
func TestAFullNodeWakesAtOnce(t *testing.T) {
	rootFS(t)
	const pods, health = 40, "127.0.0.1:7099"
	group := makePodGroup(t, map[string]string{"memory/memory.limit_in_bytes": strconv.Itoa(800 << 20), "cpu/cpu.cfs_quota_us": "200000"})
	dir, cp := newWorkDir(t), newFakeControlPlane(t)
	victim := exec.Command("/proc/self/exe")
	victim.Env = append(os.Environ(), victimDir+"="+dir, victimControlPlane+"="+cp.conn.CanonicalTarget(), victimBPF+"="+bpffs,
		victimGroup+"="+group, victimHealth+"="+health)
	victim.Stdout, victim.Stderr = t.Output(), t.Output()
	victim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Unshareflags: syscall.CLONE_NEWNS}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- victim.Wait() }()
	t.Cleanup(func() {
		_ = victim.Process.Signal(unix.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the agent does not end")
			_ = victim.Process.Kill()
			<-ended
		}
	})

	code := cp.bundle(map[string]string{"index.js": `module.exports = (req, res) => {
		const memory = Buffer.alloc(8 << 20, 1) // and some work
		for (const end = Date.now() + 50; Date.now() < end;);
		res.send('awake ' + memory.length)
	}`})
	var all []*agentv1.Assignment
	for i := range pods {
		pod := assignment(fmt.Sprintf("sleeper-%d", i), fmt.Sprintf("10.245.6.%d", i+1), code)
		pod.StartParked, pod.IdleTimeout = true, durationpb.New(time.Minute)
		pod.Resources = &agentv1.Resources{MemoryBytes: 256 << 20}
		cp.assign(pod)
		all = append(all, pod)
	}
	for _, pod := range all {
		cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	}
	cp.wait("a full pool", func() bool { return cp.pools["node24"].GetWarm() == 2 })
	cp.mu.Lock()
	capacity := cp.hellos[0].GetCapacity()
	cp.mu.Unlock()
	if capacity.GetMemoryBytes() != (800-192)<<20 || capacity.GetMilliCpu() != 1800 {
		t.Errorf("the control plane is told of %v, want what functions can have", capacity)
	}
	where, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", victim.Process.Pid))
	if err != nil || strings.Count(string(where), ":/"+group+"/agent\n") != 3 {
		t.Errorf("the agent is not in a leaf of its own: %v\n%s", err, where)
	}

	idle := probe(t, health, make(chan struct{}), 100)
	answers := make([]answer, pods)
	var waking, probing sync.WaitGroup
	over := make(chan struct{})
	var busy []time.Duration
	probing.Go(func() { busy = probe(t, health, over, 0) })
	for i, pod := range all {
		waking.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			answers[i] = get(ctx, "http://"+nodeIP+":7070/", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
		})
	}
	waking.Wait()
	close(over)
	probing.Wait()

	served := 0
	for i, got := range answers {
		switch {
		case got.err != nil:
			t.Errorf("pod %d: %v", i, got.err)
		case got.code == http.StatusOK:
			served++
		case got.code != http.StatusServiceUnavailable || !strings.Contains(got.body, `"NodeFull"`):
			t.Errorf("pod %d: %d %s", i, got.code, got.body)
		}
	}
	if served < 8 { // so many have room side by side
		t.Errorf("%d of %d were served", served, pods)
	}
	select {
	case err := <-ended:
		ended <- err
		t.Fatalf("the agent ended: %v", err)
	default:
	}
	// A median, because others use this machine, too: an agent without its part
	// of the processors is behind by the length of a quota's period.
	at := func(all []time.Duration, q float64) time.Duration { return all[int(q*float64(len(all)-1))] }
	t.Logf("%d of %d served; the agent's health: idle p50 %v, p99 %v; waking p50 %v, p99 %v of %d", served, pods, at(idle, .5), at(idle, .99), at(busy, .5), at(busy, .99), len(busy))
	if limit := 10*at(idle, .5) + 5*time.Millisecond; at(busy, .5) > limit {
		t.Errorf("the agent's health takes %v while all wake, want no more than %v", at(busy, .5), limit)
	}
	cp.mu.Lock()
	defer cp.mu.Unlock()
	for _, s := range cp.statuses {
		if end := s.GetLastTermination(); end != nil {
			t.Errorf("a container ended: %v", end)
		}
	}
}

// probe asks for the agent's health until over is closed, or so many times, and
// returns how long that took, the shortest first.
func probe(t *testing.T, address string, over <-chan struct{}, times int) []time.Duration {
	var all []time.Duration
	for len(all) < times || times == 0 {
		begun := time.Now()
		if got := get(t.Context(), "http://"+address+"/healthz"); got.err != nil || got.code != http.StatusOK {
			t.Errorf("the agent's health: %d %q %v", got.code, got.body, got.err)
			break
		}
		all = append(all, time.Since(begun))
		select {
		case <-over:
			times = -1
		case <-time.After(2 * time.Millisecond):
		}
	}
	slices.Sort(all)
	return all
}
