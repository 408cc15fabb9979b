package nodeagent

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

// forged is what a client may say of itself.
const forged = "192.0.2.66:6666"

// askOn sends a request over a connection that stays, and returns what the worker
// was told of the client.
func askOn(t *testing.T, conn net.Conn, in *bufio.Reader) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET /client HTTP/1.1\r\nHost: a\r\n%s: %s\r\n\r\n", router.HeaderClient, forged); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body strings.Builder
	if _, err := bufio.NewReader(res.Body).WriteTo(&body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d %q, %v", res.StatusCode, body.String(), err)
	}
	return body.String()
}

func dial(t *testing.T, url string) (net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp4", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, bufio.NewReader(conn)
}

// TestAPodsAddressTellsTheClient to the container, in the request that wakes the pod
// and in later ones, and never what the client says of itself.
func TestAPodsAddressTellsTheClient(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	for range 3 {
		conn, in := dial(t, ta.pod)
		if got, want := askOn(t, conn, in), fmt.Sprintf("[%v]", conn.LocalAddr()); got != want {
			t.Errorf("the worker is told of %s, want %s", got, want)
		}
	}
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	got := getWith(t.Context(), &http.Client{Transport: transport, Timeout: patience}, ta.pod+"/client", router.HeaderClient, forged)
	if got.code != 200 || !strings.HasPrefix(got.body, "[127.0.0.1:") || strings.Contains(got.body, forged) {
		t.Errorf("by HTTP/2: %d %q", got.code, got.body)
	}
}

// TestGatewaysTellNoClient: what a gateway forwards has no client but the gateway.
func TestGatewaysTellNoClient(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	wantAnswer(t, ta.viaData(t.Context(), pod, "/client"), 200, "[]")
	conn, in := dial(t, ta.pod)
	if got := askOn(t, conn, in); got == "[]" {
		t.Error("a client of the pod's address is not told of")
	}
	// On the connection to the container that the agent keeps.
	if got := ta.viaData(t.Context(), pod, "/client"); got.body != "[]" {
		t.Errorf("after a client's request a gateway's has the client %s", got.body)
	}
	// Who does not know the pod's revision is nobody's router.
	got := get(t.Context(), ta.data+"/client", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, "guessed", router.HeaderClient, forged)
	wantAnswer(t, got, http.StatusMisdirectedRequest, "")
}

// TestThePodsHomeHearsOfTheClient from the agent that the client has connected to,
// whether that leaves the pod's waking to its home or reaches the container itself.
func TestThePodsHomeHearsOfTheClient(t *testing.T) {
	home := startTestAgent(t, nil)
	pod := assignment("hello", "127.0.0.1", home.cp.bundle(nil))
	pod.StartParked = true
	home.assigned(pod, agentv1.PodState_POD_STATE_PARKED)

	ta := startTestAgent(t, nil)
	route := &routesv1.Route{
		PodUid: pod.GetPodUid(), Namespace: "default", PodName: "hello", Function: "hello", Revision: pod.GetRevision(), Address: "127.0.0.1", Port: 8080, Ready: true,
		HomeNode: "node-b", HomeAddress: strings.TrimPrefix(home.data, "http://"),
	}
	revision := uint64(1)
	publish := func() {
		revision++
		ta.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: revision, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{Upserted: []*routesv1.Route{route}}}}
	}
	publish()
	eventually(t, "the route", func() bool { return ta.owner.did1("assign 127.0.0.1") })
	conn, in := dial(t, ta.pod)
	want := fmt.Sprintf("[%v]", conn.LocalAddr())
	if got := askOn(t, conn, in); got != want {
		t.Errorf("parked: the worker is told of %s, want %s", got, want)
	}
	instance := home.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance()
	route.Instances = []*routesv1.Instance{{LeaseId: instance.GetLeaseId(), Address: instance.GetAddress(), Nonce: instance.GetNonce()}}
	publish()
	eventually(t, "the route to the container", func() bool {
		pod := ta.routes.Pod(pod.GetPodUid())
		return pod != nil && len(pod.Instances) == 1
	})
	if got := askOn(t, conn, in); got != want {
		t.Errorf("active: the worker is told of %s, want %s", got, want)
	}
	other, otherIn := dial(t, ta.pod)
	if got := askOn(t, other, otherIn); got != fmt.Sprintf("[%v]", other.LocalAddr()) {
		t.Errorf("active: of another client the worker is told as %s, want %v", got, other.LocalAddr())
	}
}
