package router

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// telling is a gateway with everything that is told of requests.
func telling(t *testing.T, cfg GatewayConfig, routes ...*routesv1.Route) *Gateway {
	cfg.Table = NewTable()
	mustApply(t, cfg.Table, snapshotOf(routes...))
	cfg.Log = slog.New(slog.DiscardHandler)
	cfg.Forwarder = NewForwarder(ForwarderConfig{Log: cfg.Log})
	t.Cleanup(cfg.Forwarder.Close)
	return NewGateway(cfg)
}

// TestAccessLogLines: one line of valid JSON for each request, whatever a client
// writes into it.
func TestAccessLogLines(t *testing.T) {
	var out bytes.Buffer
	log := NewAccessLog(&out, slog.New(slog.DiscardHandler))
	container := newBackend(t, echo)
	gateway := telling(t, GatewayConfig{AccessLog: log}, warmRoute(container.address(), "127.0.0.1:1"))
	r := httptest.NewRequest("GET", "/fn/hello/a%0A%22b%E2%80%A8?secret=1", nil)
	r.Header.Set("User-Agent", "a\"b\\c\xff")
	r.Header.Set(HeaderRequestID, "mine")
	recorded(gateway, r)
	recorded(gateway, httptest.NewRequest("GET", "/fn/none", nil))
	container.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	if _, broken := recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil)); !broken {
		t.Error("the third request should be broken off")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	type line struct {
		Method, Path, Host, Namespace, Function, RequestID, UserAgent, Client string
		Status, Attempts                                                      int
		Bytes                                                                 int64
		Cold                                                                  bool
	}
	var got []line
	for text := range strings.Lines(out.String()) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if l.RequestID == "" {
			t.Errorf("no request id in %s", text)
		}
		got = append(got, l)
	}
	if len(got) != 3 {
		t.Fatalf("%d lines, want 3", len(got))
	}
	first := got[0]
	if first.Bytes == 0 || first.RequestID != "mine" {
		t.Errorf("%+v", first)
	}
	first.Bytes = 0
	want := line{"GET", "/fn/hello/a\n\"b\ufffd", "example.com", "default", "hello", "mine", "a\"b\\c\ufffd", "192.0.2.1", 200, 1, 0, false}
	if diff := cmp.Diff(want, first); diff != "" {
		t.Error(diff)
	}
	if got[1].Status != 404 || got[1].Function != "" || got[2].Status != 200 || got[2].Bytes != 4 {
		t.Errorf("%+v", got[1:])
	}
	if strings.Contains(out.String(), "secret") {
		t.Error("the query is in the log")
	}
}

// A log that nobody takes stops nobody, and says what is missing.
func TestAccessLogDropsRatherThanWaits(t *testing.T) {
	var warned, out bytes.Buffer
	log := NewAccessLog(&out, slog.New(slog.NewTextHandler(&warned, nil)))
	r := httptest.NewRequest("GET", "/"+strings.Repeat("a", 1000), nil)
	requests := int64(0)
	for ; log.Dropped() < 3; requests++ {
		log.add(time.Now(), r, &record{}, false)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if lines := int64(strings.Count(out.String(), "\n")); lines != requests-3 || out.Len() > accessLogBuffer+2000 {
		t.Errorf("%d lines in %d bytes of %d requests", lines, out.Len(), requests)
	}
	if !strings.Contains(warned.String(), "lines=3") {
		t.Errorf("warned: %s", warned.String())
	}
}

func TestAccessLogAllocatesNothing(t *testing.T) {
	log := NewAccessLog(io.Discard, slog.New(slog.DiscardHandler))
	log.lines = make([]byte, 0, accessLogBuffer)
	r := httptest.NewRequest("GET", "/fn/hello", nil)
	rec := &record{status: 200, key: FunctionKey{"default", "hello"}}
	start := time.Now()
	if n := testing.AllocsPerRun(100, func() { log.add(start, r, rec, false) }); n > 0 {
		t.Errorf("%v allocations for a line", n)
	}
}

// series are the lines of a metric, without its values.
func series(t *testing.T, registry *prometheus.Registry, name string) []string {
	t.Helper()
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var lines []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, name) {
			lines = append(lines, strings.TrimSpace(strings.TrimPrefix(line, name)))
		}
	}
	return lines
}

func TestMetricsAreByFunction(t *testing.T) {
	registry := prometheus.NewRegistry()
	home, container := newBackend(t, echo), newBackend(t, refuse("N"))
	gateway := telling(t, GatewayConfig{Metrics: NewMetrics(registry, 0)}, warmRoute(container.address(), home.address()))
	recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	recorded(gateway, httptest.NewRequest("GET", "/fn/none", nil))
	container.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(799) })
	recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	container.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if got := series(t, registry, `sanfran_gateway_requests_in_flight{function="hello"`); !slices.Equal(got, []string{`,namespace="default"} 1`}) {
			t.Errorf("in flight: %q", got)
		}
		panic(http.ErrAbortHandler)
	})
	recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	for name, want := range map[string][]string{
		"sanfran_gateway_requests_total": {
			`{code="200",cold="true",function="hello",namespace="default"} 1`,
			`{code="404",cold="false",function="",namespace=""} 1`,
			`{code="502",cold="false",function="hello",namespace="default"} 1`,
			`{code="other",cold="false",function="hello",namespace="default"} 1`,
		},
		"sanfran_gateway_retries_total":                  {`{function="hello",namespace="default",outcome="refused"} 1`},
		`sanfran_gateway_requests_in_flight{function="h`: {`ello",namespace="default"} 0`},
		"sanfran_gateway_request_duration_seconds_count": {
			`{cold="false",function="",namespace=""} 1`, `{cold="false",function="hello",namespace="default"} 2`, `{cold="true",function="hello",namespace="default"} 1`,
		},
		"sanfran_gateway_requests_away": {"0"},
	} {
		if diff := cmp.Diff(want, series(t, registry, name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestQueuesAreToldOf: those in line and those of a parked pod, until their answers
// begin or they have gone.
func TestQueuesAreToldOf(t *testing.T) {
	registry := prometheus.NewRegistry()
	begin, end := make(chan struct{}), make(chan struct{})
	slow := func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		<-begin
		w.WriteHeader(200)
		_ = http.NewResponseController(w).Flush()
		<-end
	}
	home, container := newBackend(t, slow), newBackend(t, slow)
	parked, busy := parkedRoute(home.address()), namedRoute("b", "busy", container)
	parked.Function, busy.Policy = "parked", &routesv1.Policy{Concurrency: 1}
	gateway := telling(t, GatewayConfig{Metrics: NewMetrics(registry, 0)}, parked, busy)
	queued := func(function, n string) func() bool {
		return func() bool {
			return slices.Equal(series(t, registry, `sanfran_gateway_requests_queued{function="`+function+`"`), []string{`,namespace="default"} ` + n})
		}
	}
	var group sync.WaitGroup
	for _, path := range []string{"/fn/parked", "/fn/parked", "/fn/busy", "/fn/busy"} {
		group.Go(func() { recorded(gateway, httptest.NewRequest("GET", path, nil)) })
	}
	ctx, leave := context.WithCancel(t.Context())
	group.Go(func() { recorded(gateway, httptest.NewRequestWithContext(ctx, "GET", "/fn/busy", nil)) })
	until(t, "two wait for the parked pod", queued("parked", "2"))
	until(t, "two stand in line", queued("busy", "2"))
	leave()
	until(t, "one has left the line", queued("busy", "1"))
	close(begin)
	until(t, "the parked pod's answers have begun", queued("parked", "0"))
	close(end)
	group.Wait()
	if !queued("busy", "0")() {
		t.Error("somebody is still counted as waiting")
	}
}

// TestMetricsHaveABound: beyond it functions are counted together, and those that
// are no more make room.
func TestMetricsHaveABound(t *testing.T) {
	registry := prometheus.NewRegistry()
	metrics := NewMetrics(registry, 2)
	home := newBackend(t, echo)
	var routes []*routesv1.Route
	for i := range 4 {
		r := parkedRoute(home.address())
		r.PodUid, r.Function, r.Address = fmt.Sprint(i), fmt.Sprintf("f%d", i), fmt.Sprintf("10.0.0.%d", i+1)
		routes = append(routes, r)
	}
	gateway := telling(t, GatewayConfig{Metrics: metrics}, routes[:3]...)
	call := func(name string) {
		if w, _ := recorded(gateway, httptest.NewRequest("GET", "/fn/"+name, nil)); w.Code != 200 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
	for _, name := range []string{"f0", "f1", "f2", "f1"} {
		call(name)
	}
	total := func() []string {
		return series(t, registry, `sanfran_gateway_requests_total{code="200",cold="true",function=`)
	}
	if want := []string{`"f0",namespace="default"} 1`, `"f1",namespace="default"} 2`, `"other",namespace="other"} 1`}; !slices.Equal(total(), want) {
		t.Errorf("%q, want %q", total(), want)
	}
	mustApply(t, gateway.cfg.Table, snapshotOf(routes[1:]...))
	metrics.mu.Lock()
	metrics.forgot = time.Time{}
	metrics.mu.Unlock()
	call("f3")
	if want := []string{`"f1",namespace="default"} 2`, `"f3",namespace="default"} 1`, `"other",namespace="other"} 1`}; !slices.Equal(total(), want) {
		t.Errorf("%q, want %q", total(), want)
	}
	gauge := []string{`"",namespace=""} 0`, `"f1",namespace="default"} 0`, `"f3",namespace="default"} 0`, `"other",namespace="other"} 0`}
	for _, name := range []string{"queued", "in_flight"} {
		if got := series(t, registry, "sanfran_gateway_requests_"+name+"{function="); !slices.Equal(got, gauge) {
			t.Errorf("%s: %q, want %q", name, got, gauge)
		}
	}
}

const (
	clientsTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceID      = "0af7651916cd43dd8448eb211c80319c"
)

// TestEveryRequestHasATrace: the client's, if that is one, else a new one.
func TestEveryRequestHasATrace(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Traceparent"), " ", r.Header.Get("Tracestate"))
	})
	gateway := telling(t, GatewayConfig{}, warmRoute(container.address(), "127.0.0.1:1"))
	for given, kept := range map[string]bool{
		clientsTrace: true,
		"cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-later": true,
		"":                               false,
		"00-0af7651916cd43dd8448eb211c8": false,
		clientsTrace + "-more":           false,
		"ff" + clientsTrace[2:]:          false,
		strings.ToUpper(clientsTrace):    false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false,
		clientsTrace[:53] + "0g":                                  false,
	} {
		r := httptest.NewRequest("GET", "/fn/hello", nil)
		r.Header.Set("Tracestate", "vendor=1")
		if given != "" {
			r.Header.Set("Traceparent", given)
		}
		w, _ := recorded(gateway, r)
		seen, state, _ := strings.Cut(w.Body.String(), " ")
		if kept && (seen != given || state != "vendor=1") {
			t.Errorf("%q became %q %q", given, seen, state)
		}
		if !kept && (seen == given || !validTraceparent(seen) || !strings.HasSuffix(seen, "-00") || state != "") {
			t.Errorf("%q became %q %q, want a new one", given, seen, state)
		}
	}
}

func TestSpans(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(503)
		fmt.Fprint(w, r.Header.Get("Traceparent"))
	})
	gateway := telling(t, GatewayConfig{Tracer: provider.Tracer("test")}, warmRoute(container.address(), "127.0.0.1:1"))
	r := httptest.NewRequest("GET", "/fn/hello", nil)
	r.Header.Set("Traceparent", clientsTrace)
	child, _ := recorded(gateway, r)
	root, _ := recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	ended := spans.Ended()
	if len(ended) != 2 {
		t.Fatalf("%d spans, want 2", len(ended))
	}
	for i, seen := range []string{child.Body.String(), root.Body.String()} {
		span := ended[i]
		context := span.SpanContext()
		if want := fmt.Sprintf("00-%s-%s-01", context.TraceID(), context.SpanID()); seen != want {
			t.Errorf("the function sees %q, want %q", seen, want)
		}
		if span.Name() != "/fn/hello" || span.SpanKind() != trace.SpanKindServer || span.Status().Code != codes.Error ||
			!slices.Contains(span.Attributes(), attribute.Int("http.response.status_code", 503)) ||
			!slices.Contains(span.Attributes(), attribute.String("sanfran.function", "hello")) {
			t.Errorf("span %q %v %v %v", span.Name(), span.SpanKind(), span.Status(), span.Attributes())
		}
	}
	if ended[0].SpanContext().TraceID().String() != traceID || ended[0].Parent().SpanID().String() != clientsTrace[36:52] || ended[1].Parent().IsValid() {
		t.Errorf("parents %v, %v", ended[0].Parent(), ended[1].Parent())
	}
}

// TestForwardedHeadersOfTrustedProxies are continued, others' are dropped.
func TestForwardedHeadersOfTrustedProxies(t *testing.T) {
	seen := make(chan http.Header, 1)
	container := newBackend(t, func(_ *backend, _ http.ResponseWriter, r *http.Request) { seen <- r.Header })
	for _, trusted := range []bool{false, true} {
		cfg := GatewayConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
		gateway := telling(t, cfg, warmRoute(container.address(), "127.0.0.1:1"))
		r := httptest.NewRequest("GET", "/fn/hello", nil)
		want := map[string]string{"For": "203.0.113.1", "Host": "example.com", "Proto": "http", "Prefix": "/fn/hello", "Port": "", "": ""}
		if r.RemoteAddr = "203.0.113.1:999"; trusted {
			r.RemoteAddr = "[::ffff:198.51.100.7]:999"
			want = map[string]string{
				"For": "10.1.1.1, 10.2.2.2, ::ffff:198.51.100.7", "Host": "functions.example", "Proto": "https", "Prefix": "/api/fn/hello", "Port": "8443",
				"": `for=10.1.1.1;proto=https, for="[::ffff:198.51.100.7]"`,
			}
		}
		r.Header["X-Forwarded-For"] = []string{"10.1.1.1", "10.2.2.2"}
		r.Header.Set("X-Forwarded-Host", "functions.example")
		r.Header.Set("X-Forwarded-Proto", "https")
		r.Header.Set("X-Forwarded-Prefix", "/api/")
		r.Header.Set("X-Forwarded-Port", "8443")
		r.Header.Set("Forwarded", "for=10.1.1.1;proto=https")
		recorded(gateway, r)
		header := <-seen
		for name, value := range want {
			full := "X-Forwarded-" + name
			if name == "" {
				full = "Forwarded"
			}
			if got := header.Get(full); got != value || len(header[full]) > 1 {
				t.Errorf("trusted %v: %s is %q, want %q", trusted, full, header[full], value)
			}
		}
	}
}

// TestNoByteOfATargetEndsIt, whatever parsed the request.
func TestNoByteOfATargetEndsIt(t *testing.T) {
	container := newBackend(t, echo)
	gateway := telling(t, GatewayConfig{}, warmRoute(container.address(), "127.0.0.1:1"))
	for _, query := range []string{"a b", "a HTTP/1.1\r\nX: y", "a\x00", "a\x7f"} {
		r := httptest.NewRequest("GET", "/fn/hello", nil)
		r.URL.RawQuery = query
		if w, _ := recorded(gateway, r); w.Code != 400 || container.executed.Load() != 0 {
			t.Errorf("%q: %d, executed %d times", query, w.Code, container.executed.Load())
		}
	}
	for _, method := range []string{"GET /hidden", "GET\t", "GET\r\nX: y", "(GET)"} {
		r := httptest.NewRequest("GET", "/fn/hello", nil)
		r.Method = method
		if w, _ := recorded(gateway, r); w.Code != 400 || !strings.Contains(w.Body.String(), `"BadMethod"`) {
			t.Errorf("%q: %d %s", method, w.Code, w.Body)
		}
	}
}

// TestConnectionEndsWhatItNames, but for what SanFran itself says of a request.
func TestConnectionEndsWhatItNames(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	for _, name := range []string{"X-One", "X-Two", "X-Kept", "X-Request-Id", "Traceparent", "Tracestate"} {
		r.Header.Set(name, "kept")
	}
	r.Header["Connection"] = []string{"close , x-ONE", "", "X-Two,x-request-id,\ttraceparent, tracestate, X-None,"}
	x := NewForwarder(ForwarderConfig{}).Begin(httptest.NewRecorder(), r, ExchangeOptions{})
	head, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(x.appendHead(nil, nil))))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(http.Header{"X-Kept": {"kept"}, "X-Request-Id": {"kept"}, "Traceparent": {"kept"}}, head.Header); diff != "" {
		t.Errorf("the request's headers (-want +got):\n%s", diff)
	}
	to := http.Header{}
	passHeaders(to, http.Header{"Connection": {"x-one"}, "X-One": {"a"}, "X-Two": {"b"}, "Keep-Alive": {"5"}})
	if diff := cmp.Diff(http.Header{"X-Two": {"b"}}, to); diff != "" {
		t.Errorf("the answer's headers (-want +got):\n%s", diff)
	}
}

// TestConnectionMayNameMuch: to look for each header among all that are named would take
// a quarter of an hour, on either side.
func TestConnectionMayNameMuch(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	for i := range 100_000 {
		r.Header[fmt.Sprintf("X%x", i)] = nil
	}
	r.Header["Connection"] = []string{strings.Repeat("a,", 1_000_000)}
	x := NewForwarder(ForwarderConfig{}).Begin(httptest.NewRecorder(), r, ExchangeOptions{})
	x.appendHead(nil, nil)
	passHeaders(http.Header{}, r.Header)
}

// TestWhatOnlyHTTP2HasIsNoHeader: Go's server puts :protocol among the headers,
// whatever the method.
func TestWhatOnlyHTTP2HasIsNoHeader(t *testing.T) {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header[":protocol"] = []string{"websocket"}
	x := NewForwarder(ForwarderConfig{}).Begin(httptest.NewRecorder(), r, ExchangeOptions{})
	if head := string(x.appendHead(nil, nil)); strings.Contains(head, "websocket") {
		t.Errorf("the request's head is %q", head)
	}
	r.Method, r.ProtoMajor = http.MethodConnect, 2
	for protocol, want := range map[string]bool{"websocket": true, "h2c": false, "websocket, H2C": false} {
		if r.Header[":protocol"] = []string{protocol}; isTunnel(r) != want {
			t.Errorf("a tunnel for %q is let through: %v", protocol, !want)
		}
	}
}
