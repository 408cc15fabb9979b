package router

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// takeOver answers an upgrade and sends back what comes, in upper case, until
// the client ends its half.
func takeOver(b *backend, w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") == "" {
		echo(b, w, r)
		return
	}
	b.executed.Add(1)
	conn, both, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Fprintf(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSanfran-Leak: yes\r\nX-Path: %s\r\nX-Lease: %s\r\n\r\n",
		r.Header.Get("Upgrade"), r.RequestURI, r.Header.Get(HeaderLease))
	_ = both.Flush()
	for {
		line, err := both.ReadString('\n')
		_, _ = io.WriteString(conn, strings.ToUpper(line))
		if err != nil {
			_, _ = io.WriteString(conn, "bye\n")
			return
		}
	}
}

// upgrade sends an upgrade request with some early bytes and returns the answer,
// whose body the caller closes, and the connection.
func upgrade(t *testing.T, h http.Handler, early string) (*http.Response, net.Conn, *bufio.Reader) {
	t.Helper()
	server := httptest.NewServer(WholeRequests(h))
	t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	fmt.Fprintf(conn, "GET /fn/hello/chat?q HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n%s", early)
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res, conn, in
}

func TestUpgradesPassBothWays(t *testing.T) {
	container := newBackend(t, takeOver)
	home := newBackend(t, takeOver)
	for name, gateway := range map[string]http.Handler{
		"to the container":          newGateway(t, warmRoute(container.address(), "127.0.0.1:1")),
		"to a parked pod's agent":   newGateway(t, parkedRoute(home.address())),
		"after a refusal, to agent": newGateway(t, warmRoute(newBackend(t, refuse("N")).address(), home.address())),
	} {
		t.Run(name, func(t *testing.T) {
			res, conn, in := upgrade(t, gateway, "early ")
			defer res.Body.Close()
			if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "echo" || res.Header.Get("X-Path") != "/chat?q" {
				t.Fatalf("got %d %v", res.StatusCode, res.Header)
			}
			if res.Header.Get("Sanfran-Leak") != "" {
				t.Error("a Sanfran- header of the container reached the client")
			}
			for _, want := range []string{"EARLY HELLO\n", "HELLO\n"} {
				fmt.Fprint(conn, "hello\n")
				if line, err := in.ReadString('\n'); err != nil || line != want {
					t.Fatalf("got %q, %v, want %q", line, err, want)
				}
			}
			// Each half ends by itself.
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if rest, err := io.ReadAll(in); err != nil || string(rest) != "bye\n" {
				t.Errorf("after the end: %q, %v", rest, err)
			}
		})
	}
}

// A client that offers several protocols gets the one that the function chooses (RFC
// 9110, section 7.8), and none that it has not offered.
func TestAnUpgradeToOneOfSeveral(t *testing.T) {
	for chosen, want := range map[string]string{"other": "101 other", "Echo/2": "101 Echo/2", "echo": "502 ", "other, echo/2": "502 "} {
		container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", chosen)
		})
		server := httptest.NewServer(WholeRequests(newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))))
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo/2, other\r\n\r\n")
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(res.StatusCode, " ", res.Header.Get("Upgrade")); got != want {
			t.Errorf("chosen %q: %q, want %q", chosen, got, want)
		}
		res.Body.Close()
		conn.Close()
		server.Close()
	}
}

// An upgrade asked for in HTTP/1.0 is none (RFC 9110, section 7.8): a proxy that speaks
// it does not know that the connection is no longer HTTP.
func TestHTTP10DoesNotUpgrade(t *testing.T) {
	container := newBackend(t, takeOver)
	address := startServer(t, NewServer(ServerConfig{Handler: newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))}), nil)
	statuses, closed := sendRaw(t, address, "GET /fn/hello HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nGET /fn/hello/hidden HTTP/1.1\r\nHost: a\r\n\r\n")
	if !slices.Equal(statuses, []int{200}) || !closed || container.executed.Load() != 1 {
		t.Errorf("answers %v, closed %v, executed %d times", statuses, closed, container.executed.Load())
	}
}

// I4: an upgrade that was written is not sent again, be it refused by somebody
// else, be the connection broken.
func TestI4UpgradesAreSentOnce(t *testing.T) {
	home := newBackend(t, takeOver)
	for name, handler := range map[string]func(*backend, http.ResponseWriter, *http.Request){
		"broken": func(b *backend, w http.ResponseWriter, _ *http.Request) {
			b.executed.Add(1)
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
		},
		"another protocol": func(b *backend, w http.ResponseWriter, _ *http.Request) {
			b.executed.Add(1)
			conn, both, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			fmt.Fprint(both, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
			_ = both.Flush()
		},
	} {
		container := newBackend(t, handler)
		res, _, _ := upgrade(t, newGateway(t, warmRoute(container.address(), home.address())), "")
		res.Body.Close()
		if res.StatusCode != http.StatusBadGateway || container.executed.Load() != 1 || home.executed.Load() != 0 {
			t.Errorf("%s: %d after %d and %d executions, want 502 after one", name, res.StatusCode, container.executed.Load(), home.executed.Load())
		}
	}
}

// TestAnUpgradeThatIsNotTakenEndsTheConnection to the container: many servers read no
// more requests on one that they were asked to upgrade, whatever they answer.
func TestAnUpgradeThatIsNotTakenEndsTheConnection(t *testing.T) {
	container := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			echo(b, w, r)
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn) // what comes now is no request to it
		conn.Close()
	})
	gateway := newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))
	res, _, _ := upgrade(t, gateway, "")
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("status %d, want 401", res.StatusCode)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if status, body, _ := call(t, gateway, httptest.NewRequestWithContext(ctx, "GET", "/fn/hello", nil)); status != 200 {
		t.Errorf("the next request: %d %q", status, body)
	}
}

func TestAnUpgradeThatIsNotTakenIsAnAnswer(t *testing.T) {
	container := newBackend(t, echo)
	res, _, _ := upgrade(t, newGateway(t, warmRoute(container.address(), "127.0.0.1:1")), "")
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || !strings.HasPrefix(string(body), "GET /chat?q lease=L") {
		t.Errorf("got %d %q, %v", res.StatusCode, body, err)
	}
}

// An open upgrade counts among the instance's outstanding requests.
func TestOpenUpgradesAreOutstanding(t *testing.T) {
	container := newBackend(t, takeOver)
	table := NewTable()
	mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{})
	defer forwarder.Close()
	ended := make(chan struct{})
	gateway := NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})
	res, conn, in := upgrade(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		gateway.ServeHTTP(w, r)
	}), "x\n")
	defer res.Body.Close()
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	instance := table.Pod("a").Instances[0]
	if n := instance.Outstanding(); n != 1 {
		t.Errorf("%d outstanding while it is open, want 1", n)
	}
	conn.Close()
	<-ended
	if n := instance.Outstanding(); n != 0 {
		t.Errorf("%d outstanding after it, want 0", n)
	}
}

func TestTrailersPassBothWays(t *testing.T) {
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Answer")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Answer", r.Trailer.Get("X-Asked"))
	})
	server := httptest.NewServer(WholeRequests(newGateway(t, warmRoute(container.address(), "127.0.0.1:1"))))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /fn/hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Asked\r\n\r\n1\r\nx\r\n0\r\nX-Asked: yes\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "x" || res.Trailer.Get("X-Answer") != "yes" {
		t.Errorf("got %q, trailers %v, %v", body, res.Trailer, err)
	}
}

// TestTrailersOfARequestThatIsSentAgain: the server adds them when the body ends,
// which an attempt that is over may be the one to see.
func TestTrailersOfARequestThatIsSentAgain(t *testing.T) {
	container := newBackend(t, func(b *backend, w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // a worker does not read first either
		refuse("N")(b, w, r)
	})
	begun := make(chan struct{})
	home := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		close(begun)
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%q %d", r.Trailer["X-Asked"], len(r.Trailer))
	})
	server := httptest.NewServer(WholeRequests(newGateway(t, warmRoute(container.address(), home.address()))))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /fn/hello HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Asked, Sanfran-Lease\r\n\r\n1\r\nx\r\n")
	<-begun
	fmt.Fprint(conn, "0\r\nX-Asked: yes\r\nSanfran-Lease: forged\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != `["yes"] 1` {
		t.Errorf("got %q, %v", body, err)
	}
}
