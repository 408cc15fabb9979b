package router

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// fault is how a faulty upstream treats its connections.
type fault struct {
	// serve is how many requests are answered well first.
	serve int
	// read is how many bytes of the next request are read before it breaks; negative:
	// the whole request, which is executed, and write bytes of the answer are written.
	read, write int
	// reset breaks with a reset rather than an end.
	reset bool
}

// faultyUpstream executes requests until its fault. executed counts every
// request that it has read whole.
type faultyUpstream struct {
	net.Listener
	fault            fault
	answer           string
	executed, served atomic.Int64
	// size is how long the last request executed was, in bytes.
	size  atomic.Int64
	conns sync.WaitGroup
}

// counted counts the bytes read from a connection.
type counted struct {
	io.Reader
	n int
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

func newFaultyUpstream(t testing.TB, f fault, answer string) *faultyUpstream {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &faultyUpstream{Listener: listener, fault: f, answer: answer}
	u.conns.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			u.conns.Go(func() { u.serve(conn.(*net.TCPConn)) })
		}
	})
	return u
}

func (u *faultyUpstream) stop() {
	u.Close()
	u.conns.Wait()
}

func (u *faultyUpstream) serve(conn *net.TCPConn) {
	defer conn.Close()
	bytes := &counted{Reader: conn}
	in := bufio.NewReader(bytes)
	for u.served.Add(1) <= int64(u.fault.serve) {
		before := bytes.n
		if !u.execute(in) {
			return
		}
		u.size.Store(int64(bytes.n - before))
		fmt.Fprint(conn, goodAnswer)
	}
	if u.fault.read >= 0 {
		_, _ = io.CopyN(io.Discard, in, int64(u.fault.read))
	} else {
		if !u.execute(in) {
			return
		}
		_, _ = io.WriteString(conn, u.answer[:u.fault.write])
	}
	if u.fault.reset {
		_ = conn.SetLinger(0)
	}
}

func (u *faultyUpstream) execute(in *bufio.Reader) bool {
	r, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return false
	}
	if r.Header.Get(HeaderFate) == "" {
		u.executed.Add(1)
	}
	return true
}

var faultyRequests = map[string]func() *http.Request{
	"GET": func() *http.Request { return httptest.NewRequest("GET", "/fn/hello", nil) },
	"PUT with a length": func() *http.Request {
		r := httptest.NewRequest("PUT", "/fn/hello", strings.NewReader("a body"))
		r.Header.Set("Idempotency-Key", "k")
		return r
	},
	"POST in chunks": func() *http.Request {
		return httptest.NewRequest("POST", "/fn/hello", io.MultiReader(strings.NewReader("a "), strings.NewReader("body")))
	},
}

// TestI4EveryBreakOfARequestAndOfAnAnswer breaks the connection at every byte of a
// request and of its answer, at the first request of a connection and at a later
// one. No request is executed twice, wherever; what was executed is never given out
// as not delivered; and what has begun to be sent is not sent again.
func TestI4EveryBreakOfARequestAndOfAnAnswer(t *testing.T) {
	const (
		plain   = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-Name: value\r\n\r\nbody"
		chunked = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n"
		refusal = "HTTP/1.1 421 Misdirected Request\r\nSanfran-Refused: wrong\r\nContent-Length: 0\r\n\r\n"
	)
	for name, request := range faultyRequests {
		t.Run(name, func(t *testing.T) {
			try := func(f fault, answer string) {
				home := newFaultyUpstream(t, fault{serve: 100}, "")
				container := newFaultyUpstream(t, f, answer)
				defer home.stop()
				defer container.stop()
				gateway, forwarder := quietGateway(t, warmRoute(container.Addr().String(), home.Addr().String()))
				defer forwarder.Close()
				for range f.serve {
					if w, broken := recorded(gateway, request()); broken || w.Body.String() != "good" {
						t.Fatalf("%+v: the first requests: %d %q", f, w.Code, w.Body)
					}
				}
				w, broken := recorded(gateway, request())
				executed := container.executed.Load() - int64(f.serve)
				if executed > 1 || home.executed.Load() > 0 && executed > 0 {
					t.Errorf("%+v: executed %d times by the container, %d by the home agent", f, executed, home.executed.Load())
				}
				whole := f.read < 0 && f.write == len(answer)
				switch {
				case whole && answer == refusal:
					if w.Code != http.StatusBadGateway {
						t.Errorf("%+v: a refusal of another lease: %d", f, w.Code)
					}
				case whole:
					if broken || w.Code != 200 || w.Body.String() != "body" {
						t.Errorf("%+v: broken %v, %d %q", f, broken, w.Code, w.Body)
					}
				case home.executed.Load() == 1:
					// Nobody had seen it: the connection was not there any more.
					if f.read != 0 || w.Code != 200 {
						t.Errorf("%+v: sent again, %d", f, w.Code)
					}
				case !broken && w.Code != http.StatusBadGateway:
					t.Errorf("%+v: status %d, want 502 or a broken answer", f, w.Code)
				}
			}
			measured := newFaultyUpstream(t, fault{serve: 1}, "")
			gateway, forwarder := quietGateway(t, warmRoute(measured.Addr().String(), "127.0.0.1:1"))
			recorded(gateway, request())
			forwarder.Close()
			measured.stop()
			size := int(measured.size.Load())
			if size < 100 {
				t.Fatalf("a request of %d bytes", size)
			}
			step := 1
			if name != "GET" {
				step = 3 // the breaks inside the body are all that is new
			}
			for _, serve := range []int{0, 1} {
				for _, reset := range []bool{false, true} {
					for n := 0; n <= size; n += step {
						try(fault{serve: serve, read: n, reset: reset}, "")
					}
					for _, answer := range []string{plain, chunked, refusal} {
						try(fault{serve: serve, read: -1, write: len(answer)}, answer)
						for n := 0; n < len(answer); n += step {
							try(fault{serve: serve, read: -1, write: n, reset: reset}, answer)
						}
					}
				}
			}
		})
	}
}

// TestI4AConnectionThatWasClosedIsNotUsed: an upstream that closes connections after
// an answer, and does not say so in it, has seen nothing of the next request, which
// goes out on another connection, once.
func TestI4AConnectionThatWasClosedIsNotUsed(t *testing.T) {
	for _, reset := range []bool{false, true} {
		container := newFaultyUpstream(t, fault{read: -1, write: len(goodAnswer), reset: reset}, goodAnswer)
		gateway, forwarder := quietGateway(t, warmRoute(container.Addr().String(), "127.0.0.1:1"))
		for n := range 5 {
			for name, request := range faultyRequests {
				before := container.executed.Load()
				w, broken := recorded(gateway, request())
				// A reset may overtake its answer; the request was executed then.
				if lost := reset && (broken || w.Code == http.StatusBadGateway); !lost && (broken || w.Code != 200) || container.executed.Load() != before+1 {
					t.Errorf("reset %v, %s, round %d: %d, executed %d times", reset, name, n, w.Code, container.executed.Load()-before)
				}
				until(t, "the connection's end is seen", func() bool { return !waits(forwarder.upstreams) })
			}
		}
		forwarder.Close()
		container.stop()
	}
}

const goodAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"

// waits reports whether a connection waits that is open.
func waits(u *upstreams) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, conns := range u.idle {
		if slices.ContainsFunc(conns, (*upstreamConn).quiet) {
			return true
		}
	}
	return false
}

// TestIdleConnectionsAreSwept when they are of no use any more.
func TestIdleConnectionsAreSwept(t *testing.T) {
	container := newBackend(t, echo)
	gateway, forwarder := quietGateway(t, warmRoute(container.address(), "127.0.0.1:1"))
	defer forwarder.Close()
	u := forwarder.upstreams
	recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	if u.clean(); !waits(u) || u.sweep == nil {
		t.Error("a connection that may be used is gone")
	}
	u.mu.Lock()
	for _, conns := range u.idle {
		conns[0].since = conns[0].since.Add(-idleTimeout)
	}
	u.mu.Unlock()
	if u.clean(); len(u.idle) != 0 || u.sweep != nil {
		t.Errorf("%d addresses have connections that waited for too long", len(u.idle))
	}
	recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	container.CloseClientConnections()
	until(t, "the connection's end is seen", func() bool { return !waits(u) })
	if u.clean(); len(u.idle) != 0 {
		t.Errorf("%d addresses have connections that were closed", len(u.idle))
	}
}

// TestI4ARealWorkerDies at moments of a request: it is never executed again.
func TestI4ARealWorkerDies(t *testing.T) {
	for path, brokenOff := range map[string]bool{"/before": false, "/within": true} {
		file := filepath.Join(t.TempDir(), "executed")
		route := realWorker(t, fmt.Sprintf(`module.exports = (req, res) => {
			require('node:fs').appendFileSync(%q, 'x')
			const die = () => process.kill(process.pid, 'SIGKILL')
			if (req.url === '/before') die()
			else { res.write('half'); setImmediate(() => setImmediate(die)) }
		}`, file))
		home := newFaultyUpstream(t, fault{serve: 100}, "")
		route.HomeAddress = home.Addr().String()
		gateway, forwarder := quietGateway(t, route)
		w, broken := recorded(gateway, httptest.NewRequest("PUT", "/fn/hello"+path, strings.NewReader("body")))
		// What was written may be lost with the process.
		if broken && !brokenOff || !broken && w.Code != http.StatusBadGateway {
			t.Errorf("%s: %d %q, broken off: %v", path, w.Code, w.Body, broken)
		}
		if executed, err := os.ReadFile(file); err != nil || string(executed) != "x" || home.executed.Load() != 0 {
			t.Errorf("%s: executed %q (%v), by the home agent %d times", path, executed, err, home.executed.Load())
		}
		forwarder.Close()
		home.stop()
	}
}

// TestHostileAnswers are the function's failure, not the gateway's.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		answer string
		code   int // 0: it is broken off
	}{
		"no status":            {"HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n", 502},
		"99":                   {"HTTP/1.1 +99 None\r\nContent-Length: 0\r\n\r\n", 502},
		"not HTTP":             {"SSH-2.0-OpenSSH_9.9\r\n", 502},
		"an upgrade unasked":   {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", 502},
		"interim without end":  {strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 40_000), 502},
		"a head without end":   {"HTTP/1.1 200 OK\r\nX-Long: " + strings.Repeat("a", 2<<20), 502},
		"a head of many parts": {"HTTP/1.1 200 OK\r\n" + manyHeaders(6000) + "Content-Length: 0\r\n\r\n", 502},
		"lengths that differ":  {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502},
		"a length of nonsense": {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", 502},
		"a chunk of nonsense":  {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 0},
		"more than its length": {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200},
	} {
		container := newFaultyUpstream(t, fault{read: -1, write: len(c.answer)}, c.answer)
		gateway, forwarder := quietGateway(t, warmRoute(container.Addr().String(), "127.0.0.1:1"))
		w, broken := recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
		if broken != (c.code == 0) || !broken && w.Code != c.code || strings.Contains(w.Body.String(), "evil") {
			t.Errorf("%s: %d %q, broken off: %v", name, w.Code, w.Body, broken)
		}
		if waits(forwarder.upstreams) {
			t.Errorf("%s: the connection is kept", name)
		}
		if n := container.executed.Load(); n != 1 {
			t.Errorf("%s: executed %d times", name, n)
		}
		forwarder.Close()
		container.stop()
	}
}

// manyHeaders are so many short headers, each of another name.
func manyHeaders(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X%x: y\r\n", i)
	}
	return b.String()
}

// TestAnswersMayHaveManyHeaders, and bodies as many lines as they like.
func TestAnswersMayHaveManyHeaders(t *testing.T) {
	body := strings.Repeat("\n", 100_000)
	answer := fmt.Sprintf("HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s", manyHeaders(2000), len(body), body)
	container := newFaultyUpstream(t, fault{read: -1, write: len(answer)}, answer)
	defer container.stop()
	gateway, forwarder := quietGateway(t, warmRoute(container.Addr().String(), "127.0.0.1:1"))
	defer forwarder.Close()
	w, broken := recorded(gateway, httptest.NewRequest("GET", "/fn/hello", nil))
	if broken || w.Code != 200 || len(w.Header()) < 2000 || w.Body.String() != body {
		t.Errorf("%d with %d headers and a body of %d bytes, broken off: %v", w.Code, len(w.Header()), w.Body.Len(), broken)
	}
}

// quietGateway is a gateway whose warnings of broken upstreams are not the test's.
func quietGateway(t testing.TB, pods ...*routesv1.Route) (http.Handler, *Forwarder) {
	table := NewTable()
	if _, err := table.Apply(snapshotOf(pods...)); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	forwarder := NewForwarder(ForwarderConfig{Log: log})
	return NewGateway(GatewayConfig{Table: table, Forwarder: forwarder, Log: log}), forwarder
}

// recorded calls a handler and reports whether it broke its answer off.
func recorded(h http.Handler, r *http.Request) (w *httptest.ResponseRecorder, broken bool) {
	w = httptest.NewRecorder()
	w.Code = 0
	defer func() {
		if p := recover(); p == http.ErrAbortHandler {
			broken = true
		} else if p != nil {
			panic(p)
		}
	}()
	h.ServeHTTP(withoutInterim{w}, r)
	return w, false
}

// withoutInterim keeps a recorder from taking a 1xx answer for the last.
type withoutInterim struct{ *httptest.ResponseRecorder }

// WriteHeader implements http.ResponseWriter.
func (w withoutInterim) WriteHeader(status int) {
	if status >= 200 {
		w.ResponseRecorder.WriteHeader(status)
	}
}
