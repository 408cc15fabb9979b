//go:build integration

package nodeagent

import (
	"cmp"
	"os"
	"strings"
	"testing"

	"sanfran.dev/nodeagent/container/containertest"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestThePoolOutlivesAFailingRuntime lets the OCI runtime fail again and again,
// each time at another step, while a pod waits for a container: the pool backs
// off, says why, and goes on when it can.
func TestThePoolOutlivesAFailingRuntime(t *testing.T) {
	runtime := containertest.NewStandIn(t, cmp.Or(os.Getenv(ociRuntime), "crun"))
	a := startAgent(t, func(c *Config) { c.OCIRuntime = runtime.Binary })
	failures := func() int64 { return a.cp.pools["node24"].GetStartFailures() }
	pod := assignment("waits", "10.245.3.30", a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send('here')"}))
	pod.StartParked = true
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	want := int64(0)
	for _, fault := range []containertest.Fault{
		{After: containertest.Nothing, Then: containertest.Fail},
		{After: containertest.Created, Then: containertest.Die},
		{After: containertest.Started, Then: containertest.Fail},
		{After: containertest.Nothing, Then: containertest.Rubbish, PidFile: "rubbish"},
		{After: containertest.Started, Then: containertest.EndProgram},
	} {
		runtime.Misbehave(t, fault, 2)
		want += 2
		// The container that serves this makes room in the pool, which is filled.
		if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "here" {
			t.Errorf("%+v: %d %q", fault, code, body)
		}
		a.cp.wait("failed starts, and a full pool again", func() bool {
			return failures() >= want && a.cp.pools["node24"].GetWarm() == 2
		})
		if fault.Then == containertest.Fail {
			a.cp.mu.Lock()
			reason := a.cp.pools["node24"].GetLastFailure()
			a.cp.mu.Unlock()
			if !strings.Contains(reason, containertest.Reason) {
				t.Errorf("%+v: the control plane is told %q", fault, reason)
			}
		}
		a.cp.withdraw(pod, 0)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
		pod.Epoch.Counter++
		a.cp.assign(pod)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	}
	if got := failures(); got != want {
		t.Errorf("%d failed starts, want %d", got, want)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, a.cfg)
}
