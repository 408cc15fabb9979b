//go:build integration

package nodeagent

import (
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestParkingRefusesNobody calls a pod on every way there is, at moments around
// its parking: each call is answered by the function.
func TestParkingRefusesNobody(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("hello", "10.245.3.14", a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send('here')"}))
	const idle = 100 * time.Millisecond
	pod.IdleTimeout = durationpb.New(idle)
	a.cp.assign(pod)
	first := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance().GetLeaseId()
	gateway := followPod(t, a.Agent, a.cp, pod)
	gateway.knows(t, 1)
	// keeps its connections, but not for as long as the pod would have to wait
	kept := &http.Client{Timeout: patience, Transport: &http.Transport{IdleConnTimeout: idle / 2}}
	defer kept.CloseIdleConnections()
	ways := map[string]func() answer{
		"data listener":         func() answer { return a.viaDataAnswer(t, pod) },
		"gateway":               func() answer { return getWith(t.Context(), gateway.client, gateway.url) },
		"pod address":           func() answer { return get(t.Context(), "http://10.245.3.14:8080/") },
		"pod address, kept":     func() answer { return getWith(t.Context(), kept, "http://10.245.3.14:8080/") },
		"pod address, far away": func() answer { return getWith(t.Context(), beyondClient, "http://10.245.3.14/") },
	}
	for name, call := range ways {
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for i := range 8 {
					if got := call(); got.err != nil || got.code != 200 || got.body != "here" {
						t.Errorf("%s, call %d: %d %q %v", name, i, got.code, got.body, got.err)
					}
					<-time.After(idle - 20*time.Millisecond + rand.N(2*idle))
				}
			})
		}
		wg.Wait()
	}
	leases := map[string]bool{first: true}
	a.cp.mu.Lock()
	for _, s := range a.cp.statuses {
		leases[s.GetInstance().GetLeaseId()] = true
	}
	a.cp.mu.Unlock()
	if len(leases) < 5 {
		t.Errorf("only %d leases: the pod was hardly ever parked", len(leases))
	}
	t.Logf("%d leases", len(leases))
}

// TestNoPodIsParkedUnderARequest has a request take several times the idle timeout,
// on each way that it may have come: the pod is not parked before its end.
func TestNoPodIsParkedUnderARequest(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("holds", "10.245.3.22", a.cp.bundle(map[string]string{"index.js": `
		const held = []
		module.exports = (req, res) => {
			if (req.path === '/hold') { res.write('held'); held.push(res); return }
			for (const other of held.splice(0)) other.end(' until released')
			res.send('released')
		}`}))
	const idle = 100 * time.Millisecond
	pod.IdleTimeout = durationpb.New(idle)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	gateway := followPod(t, a.Agent, a.cp, pod)
	for _, way := range []struct {
		name, url string
		parked    bool
		client    *http.Client
	}{
		{"gateway, to the container", gateway.url, false, gateway.client},
		{"gateway, of a parked pod", gateway.url, true, gateway.client},
		{"pod address", "http://10.245.3.22:8080", false, client},
	} {
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
		gateway.knows(t, 0)
		var waking *http.Response
		if !way.parked {
			// Its wakening request holds the pod until the request to look at is there, and goes.
			waking = hold(t, client, "http://10.245.3.22:8080/hold")
			gateway.knows(t, 1)
		}
		res := hold(t, way.client, way.url+"/hold")
		if waking != nil {
			waking.Body.Close()
		}
		lease := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance().GetLeaseId()
		<-time.After(4 * idle)
		if s := a.pods.get(pod.GetPodUid()).status(); s.State != Active || s.Instance.lease != lease {
			t.Errorf("%s: the pod was parked with a request in flight", way.name)
		}
		if got := get(t.Context(), "http://10.245.3.22:8080/release"); got.body != "released" {
			t.Errorf("%s: %d %q %v", way.name, got.code, got.body, got.err)
		}
		rest, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(rest) != " until released" {
			t.Errorf("%s: the request goes on with %q %v", way.name, rest, err)
		}
	}
}

// hold makes a request that has begun to be answered.
func hold(t *testing.T, client *http.Client, url string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(res.Body, make([]byte, len("held"))); err != nil {
		t.Fatalf("%s: %d, %v", url, res.StatusCode, err)
	}
	return res
}
