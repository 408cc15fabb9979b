package nodeagent

import (
	"testing"
	"time"

	"sanfran.dev/nodeagent/workerconn"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// startDeletion begins the deletion of a pod at an agent to which Services lead for
// ever, and waits until the agent has heard of it.
func (ta *testAgent) startDeletion(a *agentv1.Assignment) *pod {
	ta.t.Helper()
	p := ta.pods.get(a.GetPodUid())
	ta.cp.withdraw(a, time.Hour)
	eventually(ta.t, "the deletion", p.isDeleted)
	return p
}

func servedForever(_ *testAgent, c *Config) { c.EndpointSettle = time.Hour }

func TestADeletedPodIsServedWhileServicesLeadToIt(t *testing.T) {
	for name, state := range map[string]agentv1.PodState{"active": agentv1.PodState_POD_STATE_ACTIVE, "parked": agentv1.PodState_POD_STATE_PARKED} {
		t.Run(name, func(t *testing.T) {
			ta := startTestAgent(t, servedForever)
			pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
			pod.StartParked = name == "parked"
			ta.assigned(pod, state)
			p := ta.startDeletion(pod)
			wantAnswer(t, get(t.Context(), ta.pod+"/"), 200, "default/hello")
			wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
			if ta.pods.get(pod.GetPodUid()) != p || ta.owner.did1("remove 127.0.0.1") {
				t.Error("the pod is not served any more")
			}
			// By force, it goes at once.
			ta.cp.withdraw(pod, 0)
			ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
			eventually(t, "the address to be given up", func() bool { return ta.owner.did1("remove 127.0.0.1") })
		})
	}
}

func TestADeletedPodsContainerIsNotReplaced(t *testing.T) {
	ta := startTestAgent(t, servedForever)
	ta.workers.setServer(true)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	ta.startDeletion(pod)
	ta.viaData(t.Context(), pod, "/die")
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	if n := ta.workers.loaded("hello"); n != 1 {
		t.Errorf("%d containers were made, want the first alone", n)
	}
}

func TestADeletionSurvivesANewStream(t *testing.T) {
	ta := startTestAgent(t, servedForever)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := ta.startDeletion(pod)
	ta.cp.disconnect(pod) // all assignments come again, and then the withdrawal
	ta.cp.wait("the agent to come back", func() bool { return len(ta.cp.hellos) == 2 })
	ta.cp.withdraw(pod, time.Hour)
	ta.assigned(assignment("later", "127.0.0.2", ta.cp.bundle(nil)), agentv1.PodState_POD_STATE_ACTIVE)
	wantAnswer(t, get(t.Context(), ta.pod+"/"), 200, "default/hello")
	if ta.pods.get(pod.GetPodUid()) != p || !p.isDeleted() {
		t.Error("it is another pod, or lives on")
	}
	// One that the control plane does not have is not waited for.
	ta.cp.disconnect()
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
}

func TestAnAgentStopsDuringADeletion(t *testing.T) {
	ta := startTestAgent(t, servedForever)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	ta.startDeletion(pod)
	ta.stop()
}

func TestWhenADeletionEnds(t *testing.T) {
	const settle = 2 * time.Second
	begun := time.Now()
	for name, tc := range map[string]struct {
		grace, came time.Duration
		listens     bool
		want        time.Duration
	}{
		"nothing comes":                    {30 * time.Second, 0, false, settle},
		"something has come":               {30 * time.Second, 5 * time.Second, false, 7 * time.Second},
		"it never ends":                    {30 * time.Second, 29 * time.Second, false, 28 * time.Second},
		"a short grace period":             {2 * time.Second, 0, false, 1500 * time.Millisecond},
		"the function listens":             {30 * time.Second, 0, true, settle},
		"the function listens in vain":     {30 * time.Second, 29 * time.Second, true, 15 * time.Second},
		"it listens for a short while":     {3 * time.Second, 0, true, 1500 * time.Millisecond},
		"no grace period is left any more": {0, 0, false, 0},
	} {
		d := &deletion{begun: begun, until: begun.Add(tc.grace)}
		if got := d.end(begun.Add(tc.came), tc.listens, settle).Sub(begun); got != tc.want {
			t.Errorf("%s: it ends after %v, want %v", name, got, tc.want)
		}
	}
}

func TestUsageKnowsWhenSomethingCame(t *testing.T) {
	at := time.Now()
	u := newUsage(at)
	u.report(workerconn.Activity{Came: 1, Direct: 1}, at.Add(1))
	u.report(workerconn.Activity{Came: 1}, at.Add(2))
	if got := u.lastCame(); !got.Equal(at.Add(1)) {
		t.Errorf("after the end of a connection: %v", got.Sub(at))
	}
	u.report(workerconn.Activity{Came: 2}, at.Add(3))
	if got := u.lastCame(); !got.Equal(at.Add(3)) {
		t.Errorf("after a connection that was over at once: %v", got.Sub(at))
	}
}
