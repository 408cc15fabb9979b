package router

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"pgregory.net/rapid"
)

// TestWhichConnectionGivesWay compares with the rule in words, whatever opens, asks,
// and closes in whatever order.
func TestWhichConnectionGivesWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 8).Draw(t, "limit")
		c := NewConnections(limit)
		type known struct {
			*boundConn
			addr netip.Addr
			idle int // since when; 0: it is busy
		}
		var all []*known
		now := 0
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now++
			kind := rapid.IntRange(0, 4).Draw(t, "kind")
			if len(all) == 0 || kind < 2 {
				k := &known{newBoundConn(nil, c), netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "client") % 4}), now}
				all = append(all, k)
				victim := c.add(k.boundConn, k.addr)
				if len(all) <= limit {
					if victim != nil {
						t.Fatal("one had to go although there was room")
					}
					continue
				}
				// What the rule allows: of the clients with the most, any.
				counts := map[netip.Addr]int{}
				for _, k := range all {
					counts[k.addr]++
				}
				most := 0
				for _, n := range counts {
					most = max(most, n)
				}
				oldest := func(of func(*known) bool) (found *known) {
					for _, k := range all {
						if k.idle > 0 && of(k) && (found == nil || k.idle < found.idle) {
							found = k
						}
					}
					return found
				}
				allowed := map[*boundConn]bool{}
				ofAll := oldest(func(*known) bool { return true })
				for addr, n := range counts {
					if n < most {
						continue
					}
					if k := oldest(func(k *known) bool { return k.addr == addr }); k != nil && most > 1 {
						allowed[k.boundConn] = true
					} else {
						allowed[ofAll.boundConn] = true
					}
				}
				if !allowed[victim] {
					t.Fatalf("the wrong one of %d went", len(all))
				}
				for i, k := range all {
					if k.boundConn == victim {
						all = append(all[:i:i], all[i+1:]...)
						break
					}
				}
				continue
			}
			i := rapid.IntRange(0, len(all)-1).Draw(t, "which")
			switch k := all[i]; kind {
			case 2:
				k.idle = 0
				c.changed(k.boundConn, http.StateActive)
			case 3:
				k.idle = now
				c.changed(k.boundConn, http.StateIdle)
			case 4:
				all = append(all[:i:i], all[i+1:]...)
				c.mu.Lock()
				c.forget(k.boundConn)
				c.mu.Unlock()
			}
			if open, _ := c.Count(); open != len(all) {
				t.Fatalf("%d are open, want %d", open, len(all))
			}
		}
		for _, k := range all {
			c.mu.Lock()
			c.forget(k.boundConn)
			c.mu.Unlock()
		}
		if open, _ := c.Count(); open != 0 || len(c.clients) != 0 || len(c.most) != 0 || c.idle.next != &c.idle {
			t.Errorf("%d open, %d clients, of which %d in the heap, are left", open, len(c.clients), len(c.most))
		}
	})
}

// boundedServer is a server of two connections. asked gets a value for each request
// for /wait, which goOn answers; other requests are answered at once.
type boundedServer struct {
	*Server
	dial        func(t *testing.T, from string) net.Conn
	asked, goOn chan struct{}
	registry    *prometheus.Registry
}

func everyTransport(t *testing.T, test func(t *testing.T, s *boundedServer)) {
	certFile, keyFile := writeCertificate(t, t.TempDir(), 1)
	certificate, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS=%v", secure), func(t *testing.T) {
			s := &boundedServer{asked: make(chan struct{}), goOn: make(chan struct{}), registry: prometheus.NewRegistry()}
			s.Server = NewServer(ServerConfig{MaxConnections: 2, Metrics: NewMetrics(s.registry, 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/wait" {
					s.asked <- struct{}{}
					<-s.goOn
				}
			})})
			var use *Certificate
			if secure {
				use = certificate
			}
			address := startServer(t, s.Server, use)
			s.dial = func(t *testing.T, from string) net.Conn {
				dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
				conn, err := dialer.DialContext(t.Context(), "tcp4", address)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
				if secure {
					return tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
				}
				return conn
			}
			test(t, s)
		})
	}
}

// ask sends a request and returns the status, 0 if the connection is closed.
func ask(conn net.Conn, path string) int {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path); err != nil {
		return 0
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.StatusCode
}

// untilIdle waits until the server has heard that a connection is idle, which is after
// its client has the answer.
func (s *boundedServer) untilIdle(t *testing.T, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for n := -1; n != want; time.Sleep(time.Millisecond) {
		n = 0
		s.connections.mu.Lock()
		for at := s.connections.idle.next; at.conn != nil; at = at.next {
			n++
		}
		s.connections.mu.Unlock()
		if ctx.Err() != nil {
			t.Fatalf("%d connections are idle, want %d", n, want)
		}
	}
}

func (s *boundedServer) wantMetrics(t *testing.T, open, idle, refused int) {
	t.Helper()
	text := httptest.NewRecorder()
	promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{}).ServeHTTP(text, httptest.NewRequest(http.MethodGet, "/", nil))
	for _, want := range []string{
		fmt.Sprintf("\nsanfran_gateway_connections %d\n", open),
		fmt.Sprintf("\nsanfran_gateway_connections_closed_total{reason=\"idle\"} %d\n", idle),
		fmt.Sprintf("\nsanfran_gateway_connections_closed_total{reason=\"refused\"} %d\n", refused),
	} {
		if !strings.Contains(text.Body.String(), want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
}

func closed(conn net.Conn) bool {
	_, err := conn.Read(make([]byte, 1))
	return err != nil && errTimeout(err) == nil
}

// TestIdleConnectionsGiveWay to newer ones, and busy ones do not: then the newer one
// goes.
func TestIdleConnectionsGiveWay(t *testing.T) {
	everyTransport(t, func(t *testing.T, s *boundedServer) {
		first, second := s.dial(t, "127.0.0.1"), s.dial(t, "127.0.0.2")
		for _, conn := range []net.Conn{first, second} {
			if status := ask(conn, "/"); status != 200 {
				t.Fatalf("status %d", status)
			}
		}
		s.untilIdle(t, 2)
		third := s.dial(t, "127.0.0.3")
		answered := make(chan int, 2)
		go func() { answered <- ask(third, "/wait") }()
		<-s.asked
		if !closed(first) {
			t.Error("the one that has been idle the longest is open")
		}
		go func() { answered <- ask(second, "/wait") }()
		<-s.asked
		s.wantMetrics(t, 2, 1, 0)
		// Nobody is idle.
		if status := ask(s.dial(t, "127.0.0.4"), "/"); status != 0 {
			t.Errorf("one too many: status %d", status)
		}
		s.wantMetrics(t, 2, 1, 1)
		for range 2 {
			s.goOn <- struct{}{}
			if status := <-answered; status != 200 {
				t.Errorf("a busy one: status %d", status)
			}
		}
	})
}

// TestConnectionsOfHTTP2AreBusyWhileAStreamIs, and idle then.
func TestConnectionsOfHTTP2AreBusyWhileAStreamIs(t *testing.T) {
	asked, goOn := make(chan struct{}), make(chan struct{})
	server := NewServer(ServerConfig{MaxConnections: 1, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			asked <- struct{}{}
			<-goOn
		}
	})})
	url := "http://" + startServer(t, server, nil)
	get := func(path string) int {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(transport.CloseIdleConnections) // not before: each has a connection that stays
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		res, err := transport.RoundTrip(r)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	answered := make(chan int, 1)
	go func() { answered <- get("/wait") }()
	<-asked
	if status := get("/"); status != 0 {
		t.Errorf("one beside a busy one: status %d", status)
	}
	goOn <- struct{}{}
	if status := <-answered; status != http.StatusOK {
		t.Errorf("the busy one: status %d", status)
	}
	(&boundedServer{Server: server}).untilIdle(t, 1)
	if status := get("/"); status != http.StatusOK {
		t.Errorf("one beside an idle one: status %d", status)
	}
}

// TestWhoHasTheMostConnectionsGivesFirst: others keep theirs, even if they have been
// idle for longer.
func TestWhoHasTheMostConnectionsGivesFirst(t *testing.T) {
	everyTransport(t, func(t *testing.T, s *boundedServer) {
		quiet := s.dial(t, "127.0.0.1")
		if status := ask(quiet, "/"); status != 200 {
			t.Fatalf("status %d", status)
		}
		var before net.Conn
		for range 5 { // who says nothing is idle, too
			conn := s.dial(t, "127.0.0.2")
			if before != nil && !closed(before) {
				t.Error("more than one of the greedy client's is open")
			}
			before = conn
		}
		if status := ask(quiet, "/"); status != 200 {
			t.Errorf("the quiet client's: status %d", status)
		}
	})
}

// TestConnectionsThatUpgradeCount until both ends have gone.
func TestConnectionsThatUpgradeCount(t *testing.T) {
	server := NewServer(ServerConfig{MaxConnections: 1, Handler: newGateway(t, warmRoute(newBackend(t, takeOver).address(), "127.0.0.1:1"))})
	address := startServer(t, server, nil)
	dial := func() (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn, bufio.NewReader(conn)
	}
	const upgrade = "GET /fn/hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	conn, in := dial()
	fmt.Fprint(conn, upgrade)
	if res, err := http.ReadResponse(in, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	other, otherIn := dial()
	if _, err := otherIn.ReadByte(); !errors.Is(err, io.EOF) && errTimeout(err) != nil {
		t.Errorf("one beside the upgraded connection: %v", err)
	}
	other.Close()
	fmt.Fprint(conn, "still\n")
	if line, err := in.ReadString('\n'); err != nil || line != "STILL\n" {
		t.Errorf("the upgraded connection: %q, %v", line, err)
	}
	conn.Close()
	deadline := time.Now().Add(20 * time.Second)
	for open := 1; open > 0; open, _ = server.connections.Count() {
		if time.Now().After(deadline) {
			t.Fatal("an upgraded connection that has ended counts")
		}
		time.Sleep(time.Millisecond)
	}
}
