package nodeagent

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

// startGateway is a gateway that knows one parked pod, and where it is.
func startGateway(t *testing.T, pod *agentv1.Assignment, home string) (url string) {
	t.Helper()
	table := router.NewTable()
	if _, err := table.Apply(&routesv1.WatchResponse{Generation: 1, Revision: 1, Change: &routesv1.WatchResponse_Snapshot{Snapshot: &routesv1.Snapshot{Routes: []*routesv1.Route{{
		PodUid: pod.GetPodUid(), Namespace: "default", PodName: "hello", Function: "hello", Revision: pod.GetRevision(), Address: "127.0.0.1", Port: 8080, Ready: true, Exposed: true,
		HomeNode: "node-b", HomeAddress: home,
	}}}}}); err != nil {
		t.Fatal(err)
	}
	forwarder := router.NewForwarder(router.ForwarderConfig{})
	server := router.NewServer(router.ServerConfig{Handler: router.NewGateway(router.GatewayConfig{Table: table, Forwarder: forwarder})})
	listener := listenLocal(t)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener, nil) }()
	t.Cleanup(func() {
		_ = server.Shutdown(t.Context()) // which has ended: what is idle is closed
		if err := <-served; err != nil {
			t.Error(err)
		}
		forwarder.Close()
	})
	return "http://" + listener.Addr().String()
}

// everyWay runs a test over each way of more than one hop to a function, by HTTP/1.1
// and HTTP/2.
func everyWay(t *testing.T, test func(t *testing.T, home *testAgent, client *http.Client, url string)) {
	home := startTestAgent(t, nil)
	address := strings.TrimPrefix(home.data, "http://")
	e := startElsewhere(t, nobodyListens, nil)
	home.cp.bundle(nil)
	home.assigned(e.pod, agentv1.PodState_POD_STATE_PARKED)
	ways := []struct {
		name string
		url  func(t *testing.T) string
	}{
		{"gateway, agent, container", func(t *testing.T) string { return startGateway(t, e.pod, address) + "/fn/hello" }},
		{"agent, home agent, container", func(*testing.T) string { e.routed(address); return e.testAgent.pod }},
		{"agent, container elsewhere", func(*testing.T) string {
			instance := home.cp.waitState(e.pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance()
			e.routed(nobodyListens, &routesv1.Instance{LeaseId: instance.GetLeaseId(), Address: instance.GetAddress(), Nonce: instance.GetNonce()})
			return e.testAgent.pod
		}},
	}
	for _, way := range ways {
		for _, version := range []int{1, 2} {
			t.Run(fmt.Sprintf("%s, HTTP/%d", way.name, version), func(t *testing.T) {
				transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
				transport.Protocols.SetHTTP1(version == 1)
				transport.Protocols.SetUnencryptedHTTP2(version == 2)
				t.Cleanup(transport.CloseIdleConnections)
				test(t, home, &http.Client{Transport: transport, Timeout: patience}, way.url(t))
			})
		}
	}
}

// TestWhatPassesMoreThanOneHop: lines in both directions as they come, 1xx before
// them, and trailers behind them.
func TestWhatPassesMoreThanOneHop(t *testing.T) {
	everyWay(t, func(t *testing.T, _ *testAgent, client *http.Client, url string) {
		hints := make(chan string, 10)
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hints <- fmt.Sprint(code, " ", header.Get("Link"))
			return nil
		}})
		body, say := io.Pipe()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/echo", body)
		if err != nil {
			t.Fatal(err)
		}
		r.Trailer = http.Header{"X-Sum": nil}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK || res.Header.Get("Link") != "" {
			t.Errorf("got %d, headers %v", res.StatusCode, res.Header)
		}
		if hint := <-hints; hint != "103 </style.css>" || len(hints) > 0 {
			t.Errorf("the hint %q, and %d more", hint, len(hints))
		}
		in := bufio.NewReader(res.Body)
		for i := range 3 {
			line := fmt.Sprintf("line %d\n", i)
			if _, err := io.WriteString(say, line); err != nil {
				t.Fatal(err)
			}
			if got, err := in.ReadString('\n'); err != nil || got != line {
				t.Fatalf("got %q, %v, want %q", got, err, line)
			}
		}
		r.Trailer.Set("X-Sum", "42")
		say.Close()
		if rest, err := io.ReadAll(in); err != nil || len(rest) > 0 {
			t.Errorf("the end: %q, %v", rest, err)
		}
		if sum := res.Trailer.Get("X-Sum"); sum != "42" {
			t.Errorf("the trailers %v", res.Trailer)
		}
	})
}

// TestAClientThatLeavesIsNoticedBehindEveryHop by the function, which waits for the
// rest of the body.
func TestAClientThatLeavesIsNoticedBehindEveryHop(t *testing.T) {
	everyWay(t, func(t *testing.T, home *testAgent, client *http.Client, url string) {
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		body, say := io.Pipe()
		defer say.Close()
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/echo", body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if _, err := io.WriteString(say, "line\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || line != "line\n" {
			t.Fatalf("got %q, %v", line, err)
		}
		// Go's client of HTTP/2 looks at ctx when it has read some more of the body.
		leave()
		res.Body.Close()
		<-home.workers.left
	})
}
