package nodeagent

import (
	"testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// Invariant I7: a control plane that was started before the newest one heard
// can say nothing that counts, not even that a pod is no more.
func TestAnOlderControlPlaneIsNotObeyed(t *testing.T) {
	dir := t.TempDir()
	first := startTestAgent(t, func(_ *testAgent, c *Config) { c.WorkDir = dir })
	pod := assignment("hello", "10.245.0.1", first.cp.bundle(nil))
	before := first.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)

	refused := func(ta *testAgent) {
		t.Helper()
		var hellos int
		ta.cp.update(func() { hellos = len(ta.cp.hellos) })
		ta.cp.replace(8)
		// The third hello is said after two syncs have been heard and refused.
		ta.cp.wait("three more hellos", func() bool { return len(ta.cp.hellos) >= hellos+3 })
		if ta.pods.get(pod.GetPodUid()) == nil {
			t.Fatal("the pod was withdrawn by an older control plane")
		}
	}
	refused(first)
	if s := first.pods.get(pod.GetPodUid()).status(); s.Instance == nil || s.Instance.lease != before.GetInstance().GetLeaseId() {
		t.Error("the pod lost its container to an older control plane")
	}

	first.cp.replace(10, pod)
	eventually(t, "the newer control plane to be obeyed", func() bool {
		state, err := first.snapshot.read()
		return err == nil && state != nil && state.Generation == 10
	})
	first.stop()

	// What was heard outlives the agent.
	second := startTestAgent(t, func(_ *testAgent, c *Config) { c.WorkDir = dir })
	eventually(t, "the pod to be taken on", func() bool { return second.pods.get(pod.GetPodUid()) != nil })
	refused(second)
	second.cp.replace(11)
	second.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
}
