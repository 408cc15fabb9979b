package nodeagent

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

// testGateway is a gateway whose routes are what the agent says of a pod.
type testGateway struct {
	url   string
	table *router.Table
	uid   string
	// client keeps its connections, as the gateway does those to containers.
	client *http.Client
}

// routeDelay is how much later a gateway hears of a change than the control plane:
// meanwhile it goes on sending to a container that is out of service.
const routeDelay = 30 * time.Millisecond

func followPod(t *testing.T, a *Agent, cp *fakeControlPlane, pod *agentv1.Assignment) *testGateway {
	t.Helper()
	g := &testGateway{table: router.NewTable(), uid: pod.GetPodUid(), client: &http.Client{Transport: &http.Transport{}, Timeout: patience}}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() {
		for revision := uint64(1); ; revision++ {
			cp.mu.Lock()
			route, changed := routeOf(a, pod, cp.newest(pod)), cp.changed
			cp.mu.Unlock()
			if _, err := g.table.Apply(&routesv1.WatchResponse{Generation: 1, Revision: revision, Change: &routesv1.WatchResponse_Delta{
				Delta: &routesv1.Delta{Upserted: []*routesv1.Route{route}}}}); err != nil {
				t.Error(err)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			select {
			case <-time.After(routeDelay):
			case <-ctx.Done():
				return
			}
		}
	})
	forwarder := router.NewForwarder(router.ForwarderConfig{})
	server := httptest.NewServer(router.WholeRequests(router.NewGateway(router.GatewayConfig{Table: g.table, Forwarder: forwarder})))
	g.url = server.URL + "/fn/" + pod.GetFunction()
	t.Cleanup(func() {
		g.client.CloseIdleConnections()
		server.Close()
		cancel()
		following.Wait()
		forwarder.Close()
	})
	return g
}

// routeOf is what a control plane tells gateways of a pod.
func routeOf(a *Agent, pod *agentv1.Assignment, s *agentv1.PodStatus) *routesv1.Route {
	r := &routesv1.Route{
		PodUid: pod.GetPodUid(), Namespace: pod.GetNamespace(), PodName: pod.GetPodName(), Function: pod.GetFunction(), Revision: pod.GetRevision(),
		Address: pod.GetAddress(), Port: pod.GetPort(), Exposed: true, HomeNode: a.cfg.NodeName, HomeAddress: a.cfg.dataAddress(),
		Ready: s.GetState() == agentv1.PodState_POD_STATE_ACTIVE || s.GetState() == agentv1.PodState_POD_STATE_PARKED,
	}
	if i := s.GetInstance(); i != nil && s.GetState() == agentv1.PodState_POD_STATE_ACTIVE {
		r.Instances = []*routesv1.Instance{{LeaseId: i.GetLeaseId(), Address: i.GetAddress(), Nonce: i.GetNonce()}}
	}
	return r
}

// knows waits until the gateway sends to so many containers.
func (g *testGateway) knows(t *testing.T, containers int) {
	t.Helper()
	eventually(t, "the gateway to hear of the pod", func() bool {
		p := g.table.Pod(g.uid)
		return p != nil && p.Ready && len(p.Instances) == containers
	})
}

// TestParkingRefusesNobodyAtAGateway calls a pod by a gateway, at moments around its
// parking: the gateway's request is on its way to a container that has just been
// taken out of service, or over a connection kept to it, and is answered all the same.
func TestParkingRefusesNobodyAtAGateway(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.RouteSettle = 10 * routeDelay })
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	const idle = 30 * time.Millisecond
	pod.IdleTimeout = durationpb.New(idle)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	gateway := followPod(t, ta.Agent, ta.cp, pod)
	gateway.knows(t, 0)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 15 {
				got := getWith(t.Context(), gateway.client, gateway.url)
				wantAnswer(t, got, http.StatusOK, "default/hello")
				<-time.After(rand.N(3 * idle))
			}
		})
	}
	all.Wait()
	if loads := ta.workers.loaded("hello"); loads < 5 {
		t.Errorf("only %d containers: the pod was hardly ever parked", loads)
	}
}
