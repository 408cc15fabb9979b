package router

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestTheRestOfABodyIsNoRequest: who has been answered before the end of its body
// cannot have the rest of it served, whatever it looks like.
func TestTheRestOfABodyIsNoRequest(t *testing.T) {
	const hidden = "GET /fn/hello/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	for name, begun := range map[string]string{
		"in a chunk":      fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\nbegun", 6+2*len(hidden)),
		"between chunks":  "Transfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n",
		"before a length": fmt.Sprintf("Content-Length: %d\r\n\r\nbegun", 6+2*len(hidden)),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits for the rest
			container := newBackend(t, func(b *backend, w http.ResponseWriter, _ *http.Request) {
				b.executed.Add(1)
				_ = http.NewResponseController(w).EnableFullDuplex()
				w.Header().Set("Content-Length", "2")
				_, _ = io.WriteString(w, "ok")
			})
			address := startServer(t, NewServer(ServerConfig{Handler: newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))}), nil)
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			fmt.Fprint(conn, "POST /fn/hello HTTP/1.1\r\nHost: a\r\n"+begun)
			in := bufio.NewReader(conn)
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			if body, err := io.ReadAll(res.Body); res.StatusCode != 200 || string(body) != "ok" || err != nil {
				t.Errorf("status %d, %q, %v", res.StatusCode, body, err)
			}
			// The connection may be closed by now, in an orderly way or not.
			_, _ = io.WriteString(conn, hidden+hidden)
			if rest, err := io.ReadAll(in); len(rest) > 0 || errTimeout(err) != nil {
				t.Errorf("after the answer: %q, %v, want the connection's end", rest, err)
			}
			if n := container.executed.Load(); n != 1 {
				t.Errorf("%d requests were served, want 1", n)
			}
		})
	}
}

// TestWhoEndsItsBodyAfterTheAnswerKeepsItsConnection, also if nothing of the body was
// read, or the answer is SanFran's own.
func TestWhoEndsItsBodyAfterTheAnswerKeepsItsConnection(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Content-Length", "2")
		_, _ = io.WriteString(w, "ok")
	})
	address := startServer(t, NewServer(ServerConfig{Handler: newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))}), nil)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	in := bufio.NewReader(conn)
	for path, want := range map[string]int{"/fn/hello": 200, "/fn/nobody": 404, "/other": 404} {
		for range 2 {
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n", path)
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != want {
				t.Fatalf("%s: status %d, %v; want %d", path, res.StatusCode, err, want)
			}
			fmt.Fprint(conn, "0\r\n\r\n")
		}
	}
}

// TestNobodyReadsABodyAfterItsRequest: what sends a body waits for the client for
// longer than the handler runs.
func TestNobodyReadsABodyAfterItsRequest(t *testing.T) {
	t.Parallel() // it waits for the rest
	for _, broken := range []bool{false, true} {
		reads, over := make(chan error, 1), make(chan struct{})
		server := httptest.NewServer(WholeRequests(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			begun := make(chan struct{})
			go func() {
				_, _ = io.ReadFull(r.Body, make([]byte, 5))
				close(begun)
				_, err := io.Copy(io.Discard, r.Body)
				<-over
				_, again := r.Body.Read(make([]byte, 1))
				reads <- errors.Join(err, again)
			}()
			<-begun
			if broken {
				panic(http.ErrAbortHandler)
			}
			w.Header().Set("Content-Length", "0")
		})))
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nbegun")
		if rest, err := io.ReadAll(conn); bytes.Contains(rest, []byte("200 OK")) == broken || errTimeout(err) != nil {
			t.Errorf("broken off %v: answered %q, %v", broken, rest, err)
		}
		close(over)
		if err := <-reads; !errors.Is(err, errLeft) {
			t.Errorf("broken off %v: who still reads gets %v, want %v", broken, err, errLeft)
		}
		conn.Close()
		server.Close()
	}
}

// TestWhoWaitsWithItsBodyIsAnswered: SanFran's own answers do not wait for the rest of
// a body whose client waits for the answer.
func TestWhoWaitsWithItsBodyIsAnswered(t *testing.T) {
	refuses := func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set(HeaderRefused, "N")
		w.WriteHeader(http.StatusMisdirectedRequest)
	}
	breaks := func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			conn.Close()
		}
	}
	for name, c := range map[string]struct {
		handler func(*backend, http.ResponseWriter, *http.Request)
		path    string
		want    int
	}{
		"the container breaks off":          {breaks, "/", http.StatusBadGateway},
		"it refuses, and there is no other": {refuses, "/", http.StatusServiceUnavailable},
		"there is no such function":         {refuses, "-none", http.StatusNotFound},
	} {
		container := newBackend(t, c.handler)
		forwarder := NewForwarder(ForwarderConfig{})
		t.Cleanup(forwarder.Close)
		everyProtocol(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			table := NewTable() // each with a container that has not failed yet
			mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
			NewGateway(GatewayConfig{Table: table, Forwarder: forwarder, AwayWait: time.Millisecond}).ServeHTTP(w, r)
		}), func(t *testing.T, client client) {
			body, say := io.Pipe()
			defer say.Close()
			go func() { _, _ = io.WriteString(say, "begun") }()
			res := client.do(t, client.request(t, "POST", c.path, body))
			if got, err := io.ReadAll(res.Body); res.StatusCode != c.want || err != nil {
				t.Errorf("%s: status %d, %q, %v; want %d", name, res.StatusCode, got, err, c.want)
			}
		})
	}
}
