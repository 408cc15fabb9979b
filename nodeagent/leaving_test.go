package nodeagent

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

// beginStop begins to stop the agent and returns a channel that is closed when it
// has stopped.
func (ta *testAgent) beginStop() <-chan struct{} {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		ta.stop()
	}()
	return stopped
}

func TestALeavingAgentServesUntilItsPodsAreWithdrawn(t *testing.T) {
	ta := startTestAgent(t, nil)
	ta.cp.taker = true
	active, parked := assignment("active", "10.245.0.1", ta.cp.bundle(nil)), assignment("parked", "10.245.0.2", ta.cp.bundle(nil))
	parked.StartParked = true
	ta.assigned(active, agentv1.PodState_POD_STATE_ACTIVE)
	ta.assigned(parked, agentv1.PodState_POD_STATE_PARKED)
	eventually(t, "readiness", func() bool { return ta.Ready(t.Context()) == nil })
	stopped := ta.beginStop()
	ta.cp.wait("the agent to leave", func() bool { return ta.cp.leaving == 1 })
	if ta.Ready(t.Context()) == nil {
		t.Error("a leaving agent is ready")
	}
	// It serves, activates and reports as before.
	wantAnswer(t, ta.viaData(t.Context(), active, "/"), 200, "default/active")
	wantAnswer(t, ta.viaData(t.Context(), parked, "/"), 200, "default/parked")
	ta.cp.waitState(parked, agentv1.PodState_POD_STATE_ACTIVE)

	// A pod that has another home goes, and what it had begun is finished.
	got := make(chan answer, 1)
	go func() { got <- ta.viaData(t.Context(), active, "/block") }()
	<-ta.workers.blocked
	ta.cp.withdraw(active, time.Hour)
	eventually(t, "the withdrawal", func() bool { return ta.pods.get(active.GetPodUid()) == nil })
	wantAnswer(t, ta.viaData(t.Context(), active, "/"), http.StatusMisdirectedRequest, "")
	wantAnswer(t, ta.viaData(t.Context(), parked, "/"), 200, "default/parked")
	ta.cp.farewell()
	close(ta.workers.release)
	wantAnswer(t, <-got, 200, "default/active")
	<-stopped

	// What nobody took is kept for the next agent: it is not reported gone.
	ta.cp.mu.Lock()
	defer ta.cp.mu.Unlock()
	if s := ta.cp.newest(active); s.GetState() != agentv1.PodState_POD_STATE_GONE {
		t.Errorf("the withdrawn pod is told to be %v", s)
	}
	if s := ta.cp.newest(parked); s.GetState() != agentv1.PodState_POD_STATE_ACTIVE {
		t.Errorf("the pod that stays is told to be %v", s)
	}
}

func TestALeavingAgentWaitsNoLongerThanItMay(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.HandoverGrace = 50 * time.Millisecond })
	ta.cp.taker = true
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	ta.stop()
	// Nobody has said that it is kept.
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
}

func TestALeavingAgentServesWhileTheControlPlaneIsAway(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.HandoverGrace = time.Hour })
	ta.cp.taker = true
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	stopped := ta.beginStop()
	ta.cp.wait("the agent to leave", func() bool { return ta.cp.leaving == 1 })
	ta.cp.disconnect(pod)
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
	// The next control plane is told, too.
	ta.cp.wait("the agent to leave again", func() bool { return ta.cp.leaving == 2 })
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
	ta.cp.farewell()
	<-stopped
}

// A request that waits for a pod here when it is handed over is served there.
func TestARequestFollowsItsPodToTheNextHome(t *testing.T) {
	hold := make(chan struct{})
	old, next := startTestAgent(t, func(ta *testAgent, _ *Config) {
		ta.runtime.OnStart = func(ctx context.Context, _ container.Config) error {
			select {
			case <-hold:
			case <-ctx.Done():
			}
			return ctx.Err()
		}
	}), startTestAgent(t, nil)
	defer close(hold)
	pod := assignment("hello", "127.0.0.1", old.cp.bundle(nil))
	next.cp.bundle(nil)
	pod.StartParked = true
	old.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	next.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	p := old.pods.get(pod.GetPodUid())
	got := make(chan answer, 1)
	go func() { got <- get(t.Context(), old.pod+"/") }()
	eventually(t, "the request to wait", func() bool { return locked(p, func() bool { return p.waiting == 1 }) })

	old.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: 2, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{Upserted: []*routesv1.Route{{
		PodUid: pod.GetPodUid(), Namespace: "default", PodName: "hello", Function: "hello", Revision: pod.GetRevision(), Address: "127.0.0.1", Port: 8080, Ready: true,
		HomeNode: "node-b", HomeAddress: strings.TrimPrefix(next.data, "http://"),
	}}}}}
	eventually(t, "the route", func() bool { return old.routes.Address(addrOf("127.0.0.1").parse()) != nil })
	old.cp.withdraw(pod, time.Minute)
	wantAnswer(t, <-got, 200, "default/hello")
	if n := next.workers.loaded("hello"); n != 1 {
		t.Errorf("%d activations at the next home, want 1", n)
	}
	// And so is one that comes later.
	wantAnswer(t, get(t.Context(), old.pod+"/"), 200, "default/hello")
}

// An agent that is told to stop while it starts is not ready when it has started.
func TestALeavingAgentDoesNotBecomeReady(t *testing.T) {
	ta := startTestAgent(t, nil)
	eventually(t, "readiness", func() bool { return ta.Ready(t.Context()) == nil })
	watcher, err := router.NewWatcher(router.WatcherConfig{Client: routesv1.NewRouteServiceClient(ta.cp.conn), Table: router.NewTable(), Log: ta.log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() { _ = watcher.Run(ctx) })
	edge := newControlPlane(ta.Agent, ta.cp.conn)
	close(edge.synced)

	ta.Agent.stopping.Store(true)
	ta.notReady("it is stopping")
	ta.becomeReady(ctx, edge, watcher)
	if err := ta.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "it is stopping") {
		t.Errorf("readiness: %v", err)
	}
	cancel()
	watching.Wait()
}
