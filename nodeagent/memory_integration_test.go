//go:build integration

package nodeagent

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestWhatAPodWritesIsBounded fills every place that a function may write to.
func TestWhatAPodWritesIsBounded(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("writes", "10.245.7.1", a.cp.bundle(map[string]string{"index.js": `const fs = require('fs')
		const fill = (file) => {
			const fd = fs.openSync(file, 'a')
			try { for (;;) fs.writeSync(fd, Buffer.alloc(1 << 16)) } catch (e) { return e.code + ' ' + fs.fstatSync(fd).size } finally { fs.closeSync(fd) }
		}
		module.exports = (req, res) => res.send(['/sized/a', '/one/a', '/two/a', '/tmp/a', '/dev/shm/a'].map(fill).join(', '))`}))
	pod.IdleTimeout = durationpb.New(time.Second)
	pod.Resources = &agentv1.Resources{EphemeralBytes: 4 << 20}
	for path, size := range map[string]int64{"/sized": 1 << 20, "/one": 0, "/two": 0} {
		pod.Mounts = append(pod.Mounts, &agentv1.Mount{Path: path, Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: path[1:], SizeBytes: size}}})
	}
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	// What is there stays over a parking, but for /tmp.
	for range 2 {
		if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "ENOSPC 1048576, ENOSPC 3145728, ENOSPC 0, ENOSPC 4194304, ENOSPC 4194304" {
			t.Errorf("%d %s", code, body)
		}
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	}
	a.cp.withdraw(pod, 0)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)

	large := assignment("large", "10.245.7.2", a.cp.bundle(map[string]string{"index.js": "module.exports = () => {}"}))
	large.Resources = &agentv1.Resources{MemoryBytes: 128 << 20}
	large.Mounts = append(large.Mounts, &agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data", SizeBytes: 1 << 40}}})
	a.cp.assign(large)
	if s := a.cp.waitState(large, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonVolumeFailed || !strings.Contains(s.GetMessage(), "more than the 128 MiB of the pod's memory limit") {
		t.Errorf("%s: %s", s.GetReason(), s.GetMessage())
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, a.cfg)
}

// TestADrainingContainerSharesThePodsLimit wakes a pod whose last container still
// runs: both together have the pod's memory, and no more.
func TestADrainingContainerSharesThePodsLimit(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("slow", "10.245.7.3", a.cp.bundle(map[string]string{"index.js": `
		process.on('SIGTERM', () => setTimeout(() => process.exit(), 3000))
		module.exports = (req, res) => res.send(String(process.constrainedMemory() >> 20))`}))
	pod.IdleTimeout = durationpb.New(300 * time.Millisecond)
	pod.Resources = &agentv1.Resources{MemoryBytes: 256 << 20}
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := a.pods.get(pod.GetPodUid())
	var first, second *instance
	locked(p, func() bool { first = p.current; return first != nil })
	limit := func(i *instance) int64 {
		data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/memory", a.cfg.CgroupBase, "functions", i.warm.container.ID(), "memory.limit_in_bytes"))
		n, _ := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
		if err != nil || n == 0 {
			t.Errorf("limit: %q %v", data, err)
		}
		return n
	}
	if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "256" {
		t.Errorf("alone: %d %s MiB", code, body)
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	locked(p, func() bool { p.spec.IdleTimeout = time.Hour; return true }) // the second one stays
	code, body, _ := a.viaData(t, pod, "/")
	locked(p, func() bool { second = p.current; return second != nil })
	select {
	case <-first.warm.container.Exited():
		t.Fatal("the first container ended before the second was there: nothing is tested")
	default:
	}
	one, other := limit(first), limit(second)
	if code != 200 || body != strconv.FormatInt(other>>20, 10) || one+other > 256<<20 || one < 32<<20 || other < allotLeast {
		t.Errorf("side by side: %d MiB and %d MiB, the function sees %d %s", one>>20, other>>20, code, body)
	}
	wait(t, first.ended)
	if status := first.warm.container.ExitStatus(); status.OOMKilled {
		t.Errorf("the first ended with %v", status)
	}
	if got := limit(second); got != 256<<20 {
		t.Errorf("alone again: %d MiB", got>>20)
	}
}
