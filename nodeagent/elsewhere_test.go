package nodeagent

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// nobodyListens is an address where no connection is taken.
const nobodyListens = "127.0.0.1:1"

// elsewhere is an agent that knows a pod at the address 127.0.0.1 whose home is
// another's.
type elsewhere struct {
	*testAgent
	pod      *agentv1.Assignment
	revision uint64
}

func startElsewhere(t *testing.T, home string, adapt func(*testAgent, *Config)) *elsewhere {
	t.Helper()
	e := &elsewhere{testAgent: startTestAgent(t, adapt), revision: 1}
	e.pod = assignment("hello", "127.0.0.1", e.cp.bundle(nil))
	e.pod.StartParked = true
	e.routed(home)
	return e
}

// routed publishes the pod's home, and the container that serves it, if there is one.
func (e *elsewhere) routed(home string, instances ...*routesv1.Instance) {
	e.t.Helper()
	e.revision++
	e.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: e.revision, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{Upserted: []*routesv1.Route{{
		PodUid: e.pod.GetPodUid(), Namespace: "default", PodName: "hello", Function: "hello", Revision: e.pod.GetRevision(), Address: "127.0.0.1", Port: 8080, Ready: true,
		HomeNode: "node-b", HomeAddress: home, Instances: instances,
	}}}}}
	eventually(e.t, "the route", func() bool {
		route := e.routes.Pod(e.pod.GetPodUid())
		return route != nil && route.HomeAddress == home && len(route.Instances) == len(instances)
	})
}

// asked has a client ask for the pod, and returns when it waits.
func (e *elsewhere) asked(ctx context.Context) <-chan answer {
	e.t.Helper()
	answered := make(chan answer, 1)
	before := e.away.Load()
	go func() { answered <- get(ctx, e.testAgent.pod+"/") }()
	eventually(e.t, "the request to wait", func() bool { return e.away.Load() == before+1 })
	return answered
}

// TestRequestsWaitForAPodThatMoves, of whatever it is that its node is not there: the
// agent is away, or does not know the pod yet.
func TestRequestsWaitForAPodThatMoves(t *testing.T) {
	for name, move := range map[string]func(e *elsewhere){
		"to another agent": func(e *elsewhere) {
			other := startTestAgent(e.t, nil)
			other.cp.bundle(nil) // of the same digest
			other.assigned(e.pod, agentv1.PodState_POD_STATE_PARKED)
			e.routed(strings.TrimPrefix(other.data, "http://"))
		},
		"to this agent": func(e *elsewhere) { e.assigned(e.pod, agentv1.PodState_POD_STATE_PARKED) },
	} {
		for _, home := range []string{nobodyListens, strings.TrimPrefix(startTestAgent(t, nil).data, "http://")} {
			t.Run(name+" from "+home, func(t *testing.T) {
				e := startElsewhere(t, home, nil)
				answered := e.asked(t.Context())
				move(e)
				wantAnswer(t, <-answered, 200, "default/hello")
				if n := e.away.Load(); n != 0 {
					t.Errorf("%d requests wait still", n)
				}
			})
		}
	}
}

func TestRequestsDoNotWaitForeverForAPodThatMoves(t *testing.T) {
	e := startElsewhere(t, nobodyListens, func(_ *testAgent, cfg *Config) { cfg.AwayWait = time.Millisecond })
	got := get(t.Context(), e.testAgent.pod+"/")
	wantAnswer(t, got, http.StatusServiceUnavailable, "PodUnavailable")
	if got.header.Get("Retry-After") == "" {
		t.Error("the client is not told to come again")
	}
}

// TestTheWaitForAPodThatMovesEnds when too many do, when the pod is deleted, and when
// the client leaves.
func TestTheWaitForAPodThatMovesEnds(t *testing.T) {
	e := startElsewhere(t, nobodyListens, func(_ *testAgent, cfg *Config) { cfg.QueueLength = 2 })
	deleted := e.asked(t.Context())
	ctx, leave := context.WithCancel(t.Context())
	left := e.asked(ctx)
	wantAnswer(t, get(t.Context(), e.testAgent.pod+"/"), http.StatusServiceUnavailable, "QueueFull")
	leave()
	<-left
	eventually(t, "the client to be gone", func() bool { return e.away.Load() == 1 })
	e.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: e.revision + 1, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{RemovedPodUids: []string{e.pod.GetPodUid()}}}}
	wantAnswer(t, <-deleted, http.StatusServiceUnavailable, "PodWithdrawn")
}

// TestALiveContainerElsewhereIsAskedItself, and its pod's home agent if it is gone.
func TestALiveContainerElsewhereIsAskedItself(t *testing.T) {
	home := startTestAgent(t, nil)
	e := startElsewhere(t, nobodyListens, nil)
	home.cp.bundle(nil) // of the same digest
	home.assigned(e.pod, agentv1.PodState_POD_STATE_PARKED)
	wantAnswer(t, home.viaData(t.Context(), e.pod, "/"), 200, "default/hello")
	instance := home.cp.waitState(e.pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance()
	live := &routesv1.Instance{LeaseId: instance.GetLeaseId(), Address: instance.GetAddress(), Nonce: instance.GetNonce()}
	e.routed(nobodyListens, live)
	wantAnswer(t, get(t.Context(), e.testAgent.pod+"/"), 200, "default/hello under "+instance.GetLeaseId())

	// Of its death the home agent is asked, which knows it.
	e.routed(strings.TrimPrefix(home.data, "http://"), live)
	wantAnswer(t, get(t.Context(), e.testAgent.pod+"/throw"), http.StatusBadGateway, "UncaughtException")
	got := get(t.Context(), e.testAgent.pod+"/")
	wantAnswer(t, got, 200, "default/hello under ")
	if strings.HasSuffix(got.body, instance.GetLeaseId()) {
		t.Errorf("a container that has ended answers: %s", got.body)
	}
}
