package nodeagent

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// roomForOne has memory for one pod's container beside two warm ones.
func roomForOne(ta *testAgent, c *Config) {
	c.QueueTimeout = 5 * time.Second
	ta.left = func(int64) (int64, error) {
		left := int64(startBytes + 1<<20)
		for _, c := range ta.runtime.Live() {
			if len(c.Mounts()) > 0 {
				left -= 60 << 20
			}
		}
		return left, nil
	}
}

func TestAnIdlePodMakesRoomForOneThatIsCalled(t *testing.T) {
	ta := startTestAgent(t, roomForOne)
	code := ta.cp.bundle(map[string]string{"index.js": "x"})
	idle, called := assignment("idle", "10.245.0.1", code), assignment("called", "10.245.0.2", code)
	called.StartParked = true
	idle.IdleTimeout, called.IdleTimeout = durationpb.New(time.Hour), durationpb.New(time.Hour)
	ta.assigned(idle, agentv1.PodState_POD_STATE_ACTIVE)
	ta.assigned(called, agentv1.PodState_POD_STATE_PARKED)
	wantAnswer(t, ta.viaData(t.Context(), called, "/"), 200, "default/called under ")
	ta.cp.waitState(idle, agentv1.PodState_POD_STATE_PARKED)
	wantAnswer(t, ta.viaData(t.Context(), idle, "/"), 200, "default/idle under ")
	ta.cp.waitState(called, agentv1.PodState_POD_STATE_PARKED)
}

// Nobody is driven out who may not be parked, nor for a container that is only
// to be kept warm: what it has is not taken, and the request is told why it waits.
func TestAFullNodeSaysSo(t *testing.T) {
	ta := startTestAgent(t, roomForOne)
	code := ta.cp.bundle(map[string]string{"index.js": "x"})
	stays, called := assignment("stays", "10.245.0.1", code), assignment("called", "10.245.0.2", code)
	called.StartParked = true
	stays.IdleTimeout = durationpb.New(0)
	ta.assigned(stays, agentv1.PodState_POD_STATE_ACTIVE)
	ta.assigned(called, agentv1.PodState_POD_STATE_PARKED)
	got := ta.viaData(t.Context(), called, "/")
	if got.code != http.StatusServiceUnavailable || !strings.Contains(got.body, `"NodeFull"`) || !strings.Contains(got.body, errNoRoom.Error()) || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s %v", got.code, got.body, got.header)
	}
	if s := ta.pods.get(called.GetPodUid()).status(); s.State != Parked {
		t.Errorf("the pod that was called is %v, want it parked: its next request tries again", s.State)
	}
	wantAnswer(t, ta.viaData(t.Context(), stays, "/"), 200, "default/stays under ")
}

func TestTheStoreTakesHalfOfTheMemoryAtMost(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.Capacity.MemoryBytes, c.PoolTarget = 2*3*warmBytes+1, 10 })
	warm := func() int { return ta.warmers.Status()[0].Warm + ta.warmers.Status()[0].Warming }
	eventually(t, "three warm containers", func() bool { return ta.warmers.Status()[0].Warm == 3 })
	if err := ta.warmers.SetTarget("node24", 20); err != nil {
		t.Fatal(err)
	}
	if n := warm(); n != 3 {
		t.Errorf("%d are kept, want 3", n)
	}
	if got := ta.cp.hellos[0].GetCapacity().GetMemoryBytes(); got != 2*3*warmBytes+1 {
		t.Errorf("the control plane is told of %d bytes", got)
	}
}
