package router

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// admission is a gateway and requests that take every way through admission.
func admission(t testing.TB) (*Gateway, map[string]*http.Request) {
	limited := route("limited", "limited", "10.0.0.1", "La", "Lb")
	// More than a benchmark sends.
	limited.Policy = &routesv1.Policy{Rate: 1e9, Burst: 1e9, MaxBodyBytes: 1 << 20, Concurrency: 100}
	front := route("front", "front", "10.0.0.2", "Lc")
	front.Policy = &routesv1.Policy{Rate: 1e9, Burst: 1e9, Split: &routesv1.Split{
		Parts: []*routesv1.Part{{Function: "limited", Percent: 50}}, Sticky: &routesv1.Split_Header{Header: "X-User"},
	}}
	cookie := route("cookie", "cookie", "10.0.0.3", "Ld")
	cookie.Policy = &routesv1.Policy{Split: &routesv1.Split{
		Parts: []*routesv1.Part{{Function: "limited", Percent: 50}}, Sticky: &routesv1.Split_Cookie{Cookie: "who"},
	}}
	table := benchTable(t, "127.0.0.1:2")
	mustApply(t, table, delta([]*routesv1.Route{limited, front, cookie}))
	gateway := NewGateway(GatewayConfig{Table: table, HostSuffix: "fn.example.com", Node: "node"})
	requests := map[string]*http.Request{
		"path":      httptest.NewRequest("GET", "/fn/hello/a%2Fb?q=1", nil),
		"namespace": httptest.NewRequest("GET", "/ns/default/fn/hello", nil),
		"host":      httptest.NewRequest("GET", "http://hello.default.fn.example.com:8080/path", nil),
		"limits":    httptest.NewRequest("POST", "/fn/limited", strings.NewReader("body")),
		"header":    httptest.NewRequest("GET", "/fn/front", nil),
		"cookie":    httptest.NewRequest("GET", "/fn/cookie", nil),
	}
	requests["header"].Header.Set("X-User", "someone")
	requests["cookie"].Header.Set("Cookie", "a=b; who=someone; c=d")
	return gateway, requests
}

// admitOne is everything between a request and its upstream.
func (g *Gateway) admitOne(r *http.Request) bool {
	_, f, refused := g.admit(r)
	if refused != nil {
		return false
	}
	t := tries{function: f}
	c, v := f.acquire(&t, g.cfg.Node)
	if v != chosen {
		return false
	}
	c.endpoint().answered()
	f.release(c)
	return true
}

// Route lookup and admission allocate nothing, whichever way a request takes.
func TestAdmissionAllocatesNothing(t *testing.T) {
	gateway, requests := admission(t)
	for name, r := range requests {
		if n := testing.AllocsPerRun(100, func() {
			if !gateway.admitOne(r) {
				t.Fatalf("%s: not let in", name)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations for each request", name, n)
		}
	}
}

func BenchmarkAdmission(b *testing.B) {
	gateway, requests := admission(b)
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		r := requests[name]
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !gateway.admitOne(r) {
					b.Fatal("not let in")
				}
			}
		})
	}
}

func TestGatewayServesHostNames(t *testing.T) {
	container := newBackend(t, echo)
	table := NewTable()
	mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{})
	t.Cleanup(forwarder.Close)
	gateway := NewGateway(GatewayConfig{Table: table, Forwarder: forwarder, HostSuffix: "fn.example.com"})
	for _, tt := range []struct{ host, path, want string }{
		// The path and the query are the function's own, byte for byte.
		{"hello.default.fn.example.com", "/fn/hello//a%2fb?x=1;2&%zz", "GET /fn/hello//a%2fb?x=1;2&%zz "},
		{"hello.default.fn.example.com:80", "/", "GET / "},
		{"gateway.fn.example.com", "/fn/hello/x", "GET /x "},
		{"hello.other.fn.example.com", "/", `"NoSuchFunction"`},
		{"gateway.fn.example.com", "/", ".fn.example.com\","},
	} {
		r := httptest.NewRequest("GET", tt.path, nil)
		r.Host = tt.host
		w := httptest.NewRecorder()
		gateway.ServeHTTP(w, r)
		if !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %s: %d %s, want %q", tt.host, tt.path, w.Code, w.Body, tt.want)
		}
	}
}

func TestPodsOfDifferentOwnersDoNotMerge(t *testing.T) {
	container := newBackend(t, echo)
	bare, deployed := warmRoute(container.address(), "127.0.0.1:1"), route("b", "hello", "10.0.0.2")
	deployed.Owner = "Deployment/hello"
	gateway := newGateway(t, bare, deployed).(*Gateway)
	request := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		gateway.ServeHTTP(w, httptest.NewRequest("GET", "/fn/hello", nil))
		return w
	}
	if w := request(); w.Code != 409 || !strings.Contains(w.Body.String(), `"NameClash"`) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if n := container.executed.Load(); n != 0 {
		t.Errorf("one of them executed the request")
	}
	for name, change := range map[string]func(*routesv1.Route){
		"off the gateway":    func(r *routesv1.Route) { r.Exposed = false },
		"not ready":          func(r *routesv1.Route) { r.Ready = false },
		"of another name":    func(r *routesv1.Route) { r.Function = "other" },
		"of the same owner":  func(r *routesv1.Route) { r.Owner = "" },
		"in another's space": func(r *routesv1.Route) { r.Namespace = "other" },
	} {
		r := route("b", "hello", "10.0.0.2")
		r.Owner = "Deployment/hello"
		change(r)
		mustApply(t, gateway.cfg.Table, delta([]*routesv1.Route{r}))
		if w := request(); w.Code != 200 {
			t.Errorf("%s: got %d %s", name, w.Code, w.Body)
		}
	}
}

func TestGatewayLimitsTheRate(t *testing.T) {
	container := newBackend(t, echo)
	r := warmRoute(container.address(), "127.0.0.1:1")
	r.Policy = &routesv1.Policy{Rate: 1. / 3600, Burst: 2}
	gateway := newGateway(t, r).(*Gateway)
	var w *httptest.ResponseRecorder
	for i, want := range []int{200, 200, 429} {
		w = httptest.NewRecorder()
		gateway.ServeHTTP(w, httptest.NewRequest("GET", "/fn/hello", nil))
		if w.Code != want {
			t.Errorf("request %d: %d, want %d", i, w.Code, want)
		}
	}
	retry, err := time.ParseDuration(w.Header().Get("Retry-After") + "s")
	if err != nil || retry < 3500*time.Second || retry > time.Hour || !strings.Contains(w.Body.String(), `"RateLimited"`) || !strings.Contains(w.Body.String(), w.Header().Get(HeaderRequestID)) {
		t.Errorf("Retry-After %q, %v, %s", w.Header().Get("Retry-After"), err, w.Body)
	}
	// A route that changes, such as by parking, begins no new burst.
	parked := parkedRoute("127.0.0.1:1")
	parked.Policy = r.Policy
	mustApply(t, gateway.cfg.Table, delta([]*routesv1.Route{parked}))
	w = httptest.NewRecorder()
	if gateway.ServeHTTP(w, httptest.NewRequest("GET", "/fn/hello", nil)); w.Code != 429 {
		t.Errorf("after a change of its route: %d", w.Code)
	}
}

func TestGatewayLimitsTheBody(t *testing.T) {
	container := newBackend(t, echo)
	r := warmRoute(container.address(), "127.0.0.1:1")
	r.Policy = &routesv1.Policy{MaxBodyBytes: 100_000}
	gateway := newGateway(t, r)
	for _, chunked := range []bool{false, true} {
		for size, want := range map[int]int{0: 200, 10: 200, 100_000: 200, 100_001: 413, 300_000: 413} {
			before := container.executed.Load()
			var body io.Reader = strings.NewReader(strings.Repeat("x", size))
			if chunked {
				body = io.MultiReader(body) // of unknown length
			}
			request := httptest.NewRequest("POST", "/fn/hello", body)
			if chunked {
				request.ContentLength = -1
			}
			status, answer, _ := call(t, gateway, request)
			if status != want || want == 413 && !strings.Contains(answer, `"BodyTooLarge"`) {
				t.Errorf("%d bytes, chunked %v: %d, want %d", size, chunked, status, want)
			}
			if want == 413 && !chunked && container.executed.Load() != before {
				t.Error("a request of a length that is too large reached the function")
			}
		}
	}
}
