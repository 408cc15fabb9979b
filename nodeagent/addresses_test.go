package nodeagent

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

func TestPodAddressesFollowThePod(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	pod.IdleTimeout = durationpb.New(50 * time.Millisecond)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	got := get(t.Context(), ta.pod+"/", router.HeaderLease, "made up by the client")
	wantAnswer(t, got, 200, "default/hello")
	ta.cp.withdraw(pod, time.Second)
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	for _, want := range []string{"assign 127.0.0.1", "direct 127.0.0.1", "park 127.0.0.1", "remove 127.0.0.1"} {
		if !ta.owner.did1(want) {
			t.Errorf("never: %s", want)
		}
	}
	wantAnswer(t, get(t.Context(), ta.pod+"/"), http.StatusServiceUnavailable, "PodUnknown")
}

// TestAParkedPodsAddressSpeaksHTTP2: the connection ends with the answer, as one of
// HTTP/1.1 does, so that the next reaches the container.
func TestAParkedPodsAddressSpeaksHTTP2(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	var connections atomic.Int32
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		connections.Add(1)
		var dialer net.Dialer
		return dialer.DialContext(ctx, network, address)
	}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	for range 2 {
		got := getWith(t.Context(), &http.Client{Transport: transport, Timeout: patience}, ta.pod+"/")
		wantAnswer(t, got, 200, "default/hello")
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("two requests went over %d connections, want 2", n)
	}
}

func TestPodsElsewhereAreForwardedToTheirHome(t *testing.T) {
	home := startTestAgent(t, nil)
	pod := assignment("hello", "127.0.0.1", home.cp.bundle(nil))
	pod.StartParked = true
	home.assigned(pod, agentv1.PodState_POD_STATE_PARKED)

	ta := startTestAgent(t, nil)
	ta.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: 2, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{Upserted: []*routesv1.Route{{
		PodUid: pod.GetPodUid(), Namespace: "default", PodName: "hello", Function: "hello", Revision: pod.GetRevision(), Address: "127.0.0.1", Port: 8080, Ready: true,
		HomeNode: "node-b", HomeAddress: strings.TrimPrefix(home.data, "http://"),
	}}}}}
	eventually(t, "the route", func() bool { return ta.owner.did1("assign 127.0.0.1") })
	wantAnswer(t, get(t.Context(), ta.pod+"/"), 200, "default/hello")
	ta.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: 3, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{RemovedPodUids: []string{pod.GetPodUid()}}}}
	eventually(t, "the route to go", func() bool { return ta.owner.did1("remove 127.0.0.1") })
}

// TestRequestsAtPodAddressesHaveSpans: one each, wherever the pod is and whatever became
// of it, between the client's span and the function's.
func TestRequestsAtPodAddressesHaveSpans(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	spans := tracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)).Tracer("test")
	traced := func(_ *testAgent, cfg *Config) { cfg.Tracer = tracer }
	home := startTestAgent(t, traced)
	pod := assignment("hello", "127.0.0.1", home.cp.bundle(nil))
	pod.StartParked = true
	home.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	other := startTestAgent(t, traced)
	other.cp.routes <- &routesv1.WatchResponse{Generation: 1, Revision: 2, Change: &routesv1.WatchResponse_Delta{Delta: &routesv1.Delta{Upserted: []*routesv1.Route{{
		PodUid: pod.GetPodUid(), Namespace: "default", PodName: "hello", Function: "hello", Revision: pod.GetRevision(), Address: "127.0.0.1", Port: 8080, Ready: true,
		HomeNode: "node-b", HomeAddress: strings.TrimPrefix(home.data, "http://"),
	}}}}}
	eventually(t, "the route", func() bool { return other.owner.did1("assign 127.0.0.1") })
	for i, c := range []struct {
		url      string
		status   int
		function string
		cold     bool
	}{
		{home.pod + "/traceparent", 200, "hello", true},
		{home.pod + "/traceparent", 200, "hello", false},
		{other.pod + "/traceparent", 200, "hello", true}, // as far as its agent knows
		{home.pod + "/die", 502, "hello", false},
		{startTestAgent(t, traced).pod, 503, "", false},
	} {
		got := get(t.Context(), c.url, "Traceparent", parent)
		eventually(t, "the span's end", func() bool { return len(spans.Ended()) == i+1 })
		span := spans.Ended()[i]
		if id := span.SpanContext(); got.code != c.status || c.status == 200 && got.body != fmt.Sprintf("00-%s-%s-01", id.TraceID(), id.SpanID()) {
			t.Errorf("%d: the function saw %d %q, want the span %v", i, got.code, got.body, id)
		}
		if span.Parent().SpanID().String() != parent[36:52] || span.SpanContext().TraceID().String() != parent[3:35] || span.SpanKind() != trace.SpanKindServer {
			t.Errorf("%d: the span's parent is %v", i, span.Parent())
		}
		attributes := map[attribute.Key]attribute.Value{}
		for _, a := range span.Attributes() {
			attributes[a.Key] = a.Value
		}
		if attributes["http.response.status_code"].AsInt64() != int64(c.status) || attributes["sanfran.function"].AsString() != c.function || attributes["sanfran.cold"].AsBool() != c.cold ||
			attributes["sanfran.request_id"].AsString() == "" || c.function != "" && (span.Name() != c.function || attributes["sanfran.attempts"].AsInt64() != 1) {
			t.Errorf("%d: span %q %v", i, span.Name(), span.Attributes())
		}
	}
}

func TestStaleAddressesAreRemovedOnceAllIsKnown(t *testing.T) {
	ta := startTestAgent(t, func(ta *testAgent, _ *Config) {
		for i := range 3 {
			_ = ta.owner.Assign([]addrOf{"10.245.9.1", "10.245.9.2", "10.245.9.3"}[i].parse())
		}
	})
	eventually(t, "readiness", func() bool { return ta.Ready(t.Context()) == nil })
	for i := range 3 {
		if want := fmt.Sprintf("remove 10.245.9.%d", i+1); !ta.owner.did1(want) {
			t.Errorf("never: %s", want)
		}
	}
}
