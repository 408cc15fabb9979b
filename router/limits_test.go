package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

const soon, never = 30 * time.Millisecond, time.Hour

// Each limit ends a request by itself, with its own reason.
func TestGatewayEndsWhatTakesTooLong(t *testing.T) {
	stuck := func(b *backend, _ http.ResponseWriter, r *http.Request) {
		b.executed.Add(1)
		_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client go
		<-r.Context().Done()
	}
	for code, policy := range map[string]*routesv1.Policy{
		"FirstByteTimeout": {FirstByteTimeout: durationpb.New(soon), StreamIdleTimeout: durationpb.New(never), RequestTimeout: durationpb.New(never)},
		"RequestTimeout":   {FirstByteTimeout: durationpb.New(never), StreamIdleTimeout: durationpb.New(soon), RequestTimeout: durationpb.New(4 * soon)},
	} {
		for _, cold := range []bool{false, true} {
			upstream := newBackend(t, stuck)
			r := warmRoute(upstream.address(), "127.0.0.1:1")
			if cold {
				r = parkedRoute(upstream.address())
			}
			r.Policy = policy
			status, body, _ := call(t, newGateway(t, r), httptest.NewRequest("POST", "/fn/hello", strings.NewReader("body")))
			if status != 504 || !strings.Contains(body, `"`+code+`"`) {
				t.Errorf("%s, cold %v: got %d %s", code, cold, status, body)
			}
			if n := upstream.executed.Load(); n != 1 {
				t.Errorf("%s, cold %v: executed %d times, want once", code, cold, n)
			}
		}
	}
}

// Once the answer has begun its connection is cut, so that nobody takes a part for
// the whole.
func TestGatewayCutsAnAnswerThatTakesTooLong(t *testing.T) {
	for name, policy := range map[string]*routesv1.Policy{
		"idle":  {StreamIdleTimeout: durationpb.New(soon), FirstByteTimeout: durationpb.New(soon)},
		"total": {RequestTimeout: durationpb.New(4 * soon)},
	} {
		container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "begun")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		})
		r := warmRoute(container.address(), "127.0.0.1:1")
		r.Policy = policy
		server := httptest.NewServer(WholeRequests(newGateway(t, r)))
		res, err := http.Get(server.URL + "/fn/hello")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if string(body) != "begun" || err == nil {
			t.Errorf("%s: read %q, %v; want an error behind what was sent", name, body, err)
		}
		res.Body.Close()
		server.Close()
		http.DefaultClient.CloseIdleConnections()
	}
}

// An answer goes on for as long as bytes come, and so does an upgraded connection as
// long as they come or go, beyond every other limit.
func TestBytesKeepAStreamOpen(t *testing.T) {
	// Each byte waits for the one before to have arrived, and all of them take longer
	// than the limit.
	t.Parallel()
	const idle, bytes = time.Second, 8
	step := make(chan struct{})
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		for range bytes {
			<-step
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
		}
	})
	r := warmRoute(container.address(), "127.0.0.1:1")
	r.Policy = &routesv1.Policy{StreamIdleTimeout: durationpb.New(idle), FirstByteTimeout: durationpb.New(never)}
	server := httptest.NewServer(WholeRequests(newGateway(t, r)))
	defer server.Close()
	ticks := time.NewTicker(idle / 5)
	defer ticks.Stop()
	go func() {
		for range bytes {
			<-ticks.C
			step <- struct{}{}
		}
	}()
	res, err := http.Get(server.URL + "/fn/hello")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || len(body) != bytes {
		t.Errorf("read %d bytes, %v", len(body), err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAnIdleUpgradedConnectionIsEnded(t *testing.T) {
	t.Parallel()
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_, _ = io.Copy(conn, rw)
	})
	r := warmRoute(container.address(), "127.0.0.1:1")
	// The total limit is the request's, which ends where the connection is upgraded.
	r.Policy = &routesv1.Policy{StreamIdleTimeout: durationpb.New(time.Second), RequestTimeout: durationpb.New(2 * soon)}
	server := httptest.NewServer(WholeRequests(newGateway(t, r)))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v, %v", res, err)
	}
	start := time.Now()
	for time.Since(start) < 4*soon { // longer than the total limit, each way in turn
		fmt.Fprint(conn, "x")
		if _, err := reader.ReadByte(); err != nil {
			t.Fatalf("the connection ended while bytes went both ways: %v", err)
		}
	}
	if _, err := reader.ReadByte(); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("an idle connection: %v, want its end", err)
	}
}

// The limit of connecting is each function's own.
func TestConnectTimeoutIsTheFunctions(t *testing.T) {
	forwarder := NewForwarder(ForwarderConfig{DialTimeout: never})
	defer forwarder.Close()
	x := forwarder.Begin(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), ExchangeOptions{Policy: &Policy{Connect: time.Nanosecond}})
	defer x.End()
	_, err := forwarder.upstreams.get(x.ctx, "127.0.0.1:1", x.connectTimeout())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("dialled with %v, want its own limit", err)
	}
}

// A container that refuses connections or breaks them is not chosen again at once,
// while another serves.
func TestGatewayLetsAFailingContainerRest(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	resetting := newBackend(t, func(b *backend, w http.ResponseWriter, _ *http.Request) {
		b.executed.Add(1)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	})
	for name, address := range map[string]string{"refuses": closed.Addr().String(), "resets": resetting.address()} {
		good, home := newBackend(t, echo), newBackend(t, echo)
		failing := warmRoute(address, home.address())
		failing.PodUid, failing.Address = "b", "10.0.0.2"
		failing.Instances[0].LeaseId = "failing"
		gateway := newGateway(t, warmRoute(good.address(), home.address()), failing).(*Gateway)
		failed := 0
		for range 40 {
			w := httptest.NewRecorder()
			if gateway.ServeHTTP(w, httptest.NewRequest("GET", "/fn/hello", nil)); w.Code != 200 {
				failed++
			}
		}
		instance := gateway.cfg.Table.Pod("b").Instances[0]
		if n := instance.failures.Load(); n != 1 || failed > 1 {
			t.Errorf("%s: it failed %d times and was asked %d times, of 40 requests to two containers", name, failed, n)
		}
	}
}

// A client whose body is broken is no reason to pass a container over: one client
// could keep all of a function's from everybody.
func TestABrokenBodyLetsNoContainerRest(t *testing.T) {
	home := newBackend(t, echo)
	good := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	})
	gateway := newGateway(t, warmRoute(good.address(), home.address())).(*Gateway)
	server := httptest.NewServer(WholeRequests(gateway))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /fn/hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if res.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), `"BadBody"`) {
		t.Errorf("answered with %d %s", res.StatusCode, body)
	}
	if n := gateway.cfg.Table.Pod("a").Instances[0].failures.Load(); n != 0 {
		t.Errorf("the container counts as having failed %d times", n)
	}
}
