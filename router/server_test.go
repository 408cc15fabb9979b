package router

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestSlowClientsAreCutOff: who does not come to the end of its headers is not
// waited for.
func TestSlowClientsAreCutOff(t *testing.T) {
	address := startServer(t, NewServer(ServerConfig{Handler: http.NotFoundHandler(), HeaderTimeout: 20 * time.Millisecond}), nil)
	for _, begun := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ", "PRI * HTTP/2.0\r\n\r\nSM"} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(conn, begun); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil && errTimeout(err) != nil {
			t.Errorf("after %q the connection is still open", begun)
		}
	}
}

// TestWhoTakesNothingIsCutOff: a client that does not read its answer does not keep
// the function.
func TestWhoTakesNothingIsCutOff(t *testing.T) {
	ended := make(chan struct{})
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		for block := make([]byte, 64<<10); ; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	table := NewTable()
	mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
	forwarder := NewForwarder(ForwarderConfig{ClientStall: 50 * time.Millisecond})
	t.Cleanup(forwarder.Close)
	address := startServer(t, NewServer(ServerConfig{Handler: NewGateway(GatewayConfig{Table: table, Forwarder: forwarder})}), nil)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: a\r\n\r\n")
	<-ended
}

// TestWhoSendsNothingIsCutOff: a client that does not go on with its body does not
// keep the function; after the answer has begun it may be silent.
func TestWhoSendsNothingIsCutOff(t *testing.T) {
	ended := make(chan struct{}, 1)
	container := newBackend(t, func(_ *backend, w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/first" {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		_, _ = io.Copy(io.Discard, r.Body)
		ended <- struct{}{}
	})
	table := NewTable()
	mustApply(t, table, snapshotOf(warmRoute(container.address(), "127.0.0.1:1")))
	const stall = 50 * time.Millisecond
	forwarder := NewForwarder(ForwarderConfig{ClientStall: stall})
	t.Cleanup(forwarder.Close)
	everyProtocol(t, NewGateway(GatewayConfig{Table: table, Forwarder: forwarder}), func(t *testing.T, c client) {
		for path, want := range map[string]int{"/then": http.StatusRequestTimeout, "/first": 200} {
			body, say := io.Pipe()
			r := c.request(t, "POST", path, body)
			r.ContentLength = 10
			go func() { _, _ = io.WriteString(say, "half ") }()
			res := c.do(t, r)
			if res.StatusCode != want {
				t.Errorf("%s: status %d, want %d", path, res.StatusCode, want)
			}
			if want == 200 {
				select {
				case <-ended:
					t.Errorf("%s: cut off after the answer had begun", path)
				case <-time.After(3 * stall):
				}
				_, _ = io.WriteString(say, "whole")
			}
			say.Close()
			<-ended
			_, _ = io.Copy(io.Discard, res.Body)
		}
	})
}

func TestHeaderBombsAreRefused(t *testing.T) {
	address := startServer(t, NewServer(ServerConfig{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was served") })}), nil)
	for name, bomb := range map[string]string{
		"one header":   "GET / HTTP/1.1\r\nHost: a\r\nX-Bomb: " + strings.Repeat("a", 64<<10) + "\r\n\r\n",
		"many headers": "GET / HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X-Bomb: a\r\n", 6<<10) + "\r\n",
		"many names":   "GET / HTTP/1.1\r\nHost: a\r\n" + manyHeaders(1001) + "\r\n",
		"a long path":  "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n",
		"without end":  "GET / HTTP/1.1\r\nX-Bomb: " + strings.Repeat("a", 64<<10),
	} {
		statuses, closed := sendRaw(t, address, bomb)
		// The server may close before all was sent; then the answer may be lost.
		if len(statuses) > 1 || len(statuses) == 1 && statuses[0] != http.StatusRequestHeaderFieldsTooLarge || !closed {
			t.Errorf("%s: answers %v, closed %v", name, statuses, closed)
		}
	}
}

// TestDrainingTellsClients by the answers that they get meanwhile.
func TestDrainingTellsClients(t *testing.T) {
	server := NewServer(ServerConfig{Handler: newGateway(t, warmRoute(newBackend(t, echo).address(), "127.0.0.1:1"))})
	address := startServer(t, server, nil)
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	for _, draining := range []bool{false, true} {
		if draining {
			server.Drain()
		}
		fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode != 200 || res.Close != draining {
			t.Errorf("draining %v: status %d, close %v", draining, res.StatusCode, res.Close)
		}
	}
	if _, err := in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the connection is still open: %v", err)
	}
}

// TestShutdownWaitsForUpgrades, and cuts off those that are there at the end.
func TestShutdownWaitsForUpgrades(t *testing.T) {
	for _, ends := range []bool{true, false} {
		server := NewServer(ServerConfig{Handler: newGateway(t, warmRoute(newBackend(t, takeOver).address(), "127.0.0.1:1"))})
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener, nil) }()
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprint(conn, "GET /fn/hello HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		in := bufio.NewReader(conn)
		res, err := http.ReadResponse(in, nil)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatal(res, err)
		}
		ctx, giveUp := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- server.Shutdown(ctx) }()
		if err := <-served; err != nil { // no more connections
			t.Fatal(err)
		}
		fmt.Fprint(conn, "still\n")
		if line, err := in.ReadString('\n'); err != nil || line != "STILL\n" {
			t.Errorf("during the shutdown: %q, %v", line, err)
		}
		if ends {
			conn.Close()
			if err := <-stopped; err != nil {
				t.Error(err)
			}
			giveUp()
			continue
		}
		giveUp()
		if err := <-stopped; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want that requests were cut off", err)
		}
		if _, err := in.ReadByte(); err == nil {
			t.Error("the connection is still open")
		}
	}
}
