package router

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

func TestMain(m *testing.M) {
	// net/http's way to close a connection whose client still sends, half a second.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// backend is a container or an agent on loopback that counts what it executed.
type backend struct {
	*httptest.Server
	executed atomic.Int64
}

func newBackend(t *testing.T, handler func(b *backend, w http.ResponseWriter, r *http.Request)) *backend {
	b := &backend{}
	b.Server = httptest.NewServer(WholeRequests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler(b, w, r) })))
	t.Cleanup(b.Close)
	return b
}

func (b *backend) address() string { return b.Listener.Addr().String() }

// echo executes the request and tells what it saw.
func echo(b *backend, w http.ResponseWriter, r *http.Request) {
	if _, _, ok := AskedFate(r); ok {
		WriteFate(w, nil)
		return
	}
	b.executed.Add(1)
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Sanfran-Leak", "yes")
	fmt.Fprintf(w, "%s %s lease=%s pod=%s body=%s", r.Method, r.RequestURI, r.Header.Get(HeaderLease), r.Header.Get(HeaderPod), body)
}

func refuse(nonce string) func(*backend, http.ResponseWriter, *http.Request) {
	return func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(HeaderRefused, nonce)
		w.WriteHeader(http.StatusMisdirectedRequest)
	}
}

func newGateway(t *testing.T, routes ...*routesv1.Route) http.Handler {
	table := NewTable()
	mustApply(t, table, snapshotOf(routes...))
	forwarder := NewForwarder(ForwarderConfig{})
	t.Cleanup(forwarder.Close)
	return NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})
}

func warmRoute(container, home string) *routesv1.Route {
	r := route("a", "hello", "10.0.0.1", "L")
	r.Instances[0].Address, r.Instances[0].Nonce, r.HomeAddress, r.Revision = container, "N", home, "rev"
	return r
}

func parkedRoute(home string) *routesv1.Route {
	r := warmRoute("", home)
	r.Instances = nil
	return r
}

func call(t *testing.T, h http.Handler, r *http.Request) (int, string, http.Header) {
	t.Helper()
	server := httptest.NewServer(WholeRequests(h))
	defer server.Close()
	r.URL.Host, r.URL.Scheme, r.RequestURI = server.Listener.Addr().String(), "http", ""
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	res, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body), res.Header
}

func TestGatewaySendsToTheContainer(t *testing.T) {
	container := newBackend(t, echo)
	gateway := newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))
	r := httptest.NewRequest("POST", "/fn/hello/a%2Fb?q=1;2&%zz", strings.NewReader("body"))
	r.Header.Set(HeaderLease, "forged")
	r.Header.Set("sanfran-pod", "forged")
	status, body, header := call(t, gateway, r)
	if want := "POST /a%2Fb?q=1;2&%zz lease=L pod= body=body"; status != 200 || body != want {
		t.Errorf("got %d %q, want 200 %q", status, body, want)
	}
	if header.Get("Sanfran-Leak") != "" {
		t.Error("a Sanfran- header of the container reached the client")
	}
}

func TestGatewaySendsAParkedPodsRequestToItsHomeAgent(t *testing.T) {
	home := newBackend(t, echo)
	gateway := newGateway(t, parkedRoute(home.address()))
	status, body, _ := call(t, gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	if want := "GET / lease= pod=a body="; status != 200 || body != want {
		t.Errorf("got %d %q, want 200 %q", status, body, want)
	}
}

// A refusal with the lease's nonce and a container that cannot be reached both
// leave the function uncalled, so that the home agent gets the request, whole.
func TestGatewayGoesToTheHomeAgentWhenTheContainerCannotHaveSeenIt(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	refusing := newBackend(t, refuse("N"))
	for name, container := range map[string]string{"refused": refusing.address(), "not delivered": closed.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			home := newBackend(t, echo)
			gateway := newGateway(t, warmRoute(container, home.address()))
			status, body, _ := call(t, gateway, httptest.NewRequest("POST", "/fn/hello", strings.NewReader("the whole body")))
			if want := "POST / lease= pod=a body=the whole body"; status != 200 || body != want {
				t.Errorf("got %d %q, want 200 %q", status, body, want)
			}
			if n := home.executed.Load(); n != 1 {
				t.Errorf("executed %d times, want once", n)
			}
		})
	}
}

func TestGatewayDoesNotBelieveOtherRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		handler func(*backend, http.ResponseWriter, *http.Request)
		want    int
	}{
		"the function's own 421":        {func(_ *backend, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(421) }, 421},
		"another lease's nonce":         {refuse("other"), 502},
		"a container posing as agent":   {refuse(AgentNonce), 502},
		"421 with an empty nonce value": {refuse(""), 421},
	} {
		t.Run(name, func(t *testing.T) {
			home := newBackend(t, echo)
			container := newBackend(t, c.handler)
			gateway := newGateway(t, warmRoute(container.address(), home.address()))
			status, _, _ := call(t, gateway, httptest.NewRequest("GET", "/fn/hello", nil))
			if status != c.want {
				t.Errorf("status %d, want %d", status, c.want)
			}
			if n := home.executed.Load(); n != 0 {
				t.Errorf("the home agent executed the request %d times, want never", n)
			}
		})
	}
}

// I4: a request that reached a container is never sent again, whatever its
// method and however the connection ends, on a fresh and on a reused connection.
func TestI4NothingIsSentTwice(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"} {
		for _, reused := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s reused=%v", method, reused), func(t *testing.T) {
				executed := make(chan struct{}, 10)
				listener, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan struct{})
				go func() {
					defer close(served)
					answered := !reused
					for {
						conn, err := listener.Accept()
						if err != nil {
							return
						}
						reader := bufio.NewReader(conn)
						for {
							r, err := http.ReadRequest(reader)
							if err != nil {
								break
							}
							_, _ = io.Copy(io.Discard, r.Body)
							if !answered {
								answered = true
								fmt.Fprint(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
								continue
							}
							executed <- struct{}{}
							_ = conn.(*net.TCPConn).SetLinger(0) // reset
							break
						}
						conn.Close()
					}
				}()
				home := newBackend(t, echo)
				gateway := newGateway(t, warmRoute(listener.Addr().String(), home.address()))
				request := func() int {
					r := httptest.NewRequest(method, "/fn/hello", nil)
					r.Header.Set("Idempotency-Key", "k")
					w := httptest.NewRecorder()
					gateway.ServeHTTP(w, r)
					return w.Code
				}
				if reused {
					if status := request(); status != 200 {
						t.Fatalf("first request on the connection: %d", status)
					}
				}
				if status := request(); status != 502 {
					t.Errorf("status %d, want 502", status)
				}
				if n := len(executed); n != 1 {
					t.Errorf("the container executed the request %d times, want once", n)
				}
				if n := home.executed.Load(); n != 0 {
					t.Errorf("the home agent executed it %d times more", n)
				}
				listener.Close()
				<-served
			})
		}
	}
}

// While a pod is handed over its home agent may let go of a request that waited
// for it: the next home, which the routes name by now, gets it.
func TestGatewayFollowsAPodToItsNextHome(t *testing.T) {
	table := NewTable()
	forwarder := NewForwarder(ForwarderConfig{})
	t.Cleanup(forwarder.Close)
	next := newBackend(t, echo)
	former := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		mustApply(t, table, snapshotOf(parkedRoute(next.address())))
		refuse(AgentNonce)(b, w, r)
	})
	mustApply(t, table, snapshotOf(parkedRoute(former.address())))
	gateway := NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})
	status, body, _ := call(t, gateway, httptest.NewRequest("POST", "/fn/hello", strings.NewReader("whole")))
	if want := "POST / lease= pod=a body=whole"; status != 200 || body != want {
		t.Errorf("got %d %q, want 200 %q", status, body, want)
	}
}

// A request waits while the only home agent is replaced, and is sent once.
func TestGatewayWaitsForAHomeAgentThatIsAway(t *testing.T) {
	reserved, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := reserved.Addr().String()
	reserved.Close()
	gateway := newGateway(t, warmRoute(address, address)).(*Gateway)
	home := &backend{}
	home.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { echo(home, w, r) }))
	go func() {
		for gateway.away.Load() == 0 {
			runtime.Gosched()
		}
		home.Listener.Close()
		if home.Listener, err = net.Listen("tcp", address); err == nil {
			home.Start()
		}
	}()
	status, body, _ := call(t, gateway, httptest.NewRequest("POST", "/fn/hello", strings.NewReader("whole")))
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	if status != 200 || !strings.HasSuffix(body, "body=whole") || home.executed.Load() != 1 {
		t.Errorf("got %d %q, executed %d times", status, body, home.executed.Load())
	}
	if n := gateway.away.Load(); n != 0 {
		t.Errorf("%d requests wait", n)
	}
}

func TestGatewayDoesNotWaitForEver(t *testing.T) {
	table := NewTable()
	mustApply(t, table, snapshotOf(parkedRoute("127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{})
	t.Cleanup(forwarder.Close)
	gateway := NewGateway(GatewayConfig{Table: table, Forwarder: forwarder, AwayWait: 100 * time.Millisecond})
	if status, body, _ := call(t, gateway, httptest.NewRequest("GET", "/fn/hello", nil)); status != 503 || !strings.Contains(body, "NoInstance") {
		t.Errorf("got %d %q", status, body)
	}
	gateway.cfg.AwayWait = time.Hour
	gateway.held.Store(gateway.cfg.QueueMemory)
	if status, body, _ := call(t, gateway, httptest.NewRequest("GET", "/fn/hello", nil)); status != 503 || !strings.Contains(body, "QueueFull") {
		t.Errorf("with too many that wait: got %d %q", status, body)
	}
}

func TestGatewaySaysWhatIsMissing(t *testing.T) {
	hidden := parkedRoute("127.0.0.1:1")
	hidden.Function, hidden.Exposed = "hidden", false
	failing := parkedRoute("127.0.0.1:1")
	failing.PodUid, failing.Function, failing.Ready, failing.Address = "b", "failing", false, "10.0.0.2"
	gateway := newGateway(t, hidden, failing)
	for path, want := range map[string]struct {
		status int
		code   string
	}{
		"/":           {404, "NoSuchPath"},
		"/fn/none":    {404, "NoSuchFunction"},
		"/fn/hidden":  {404, "NoSuchFunction"},
		"/fn/failing": {503, "NoInstance"},
	} {
		status, body, header := call(t, gateway, httptest.NewRequest("GET", path, nil))
		if status != want.status || !strings.Contains(body, `"code":"`+want.code+`"`) {
			t.Errorf("GET %s: %d %s, want %d %s", path, status, body, want.status, want.code)
		}
		if got := header.Get("Content-Type"); got != "application/json; charset=utf-8" {
			t.Errorf("GET %s: Content-Type %q", path, got)
		}
	}
}
