//go:build integration

package network

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDialIsWithinTheNamespace(t *testing.T) {
	n := openNetwork(t)
	one, other := create(t, n, "one"), create(t, n, "other")
	serve(t, one.Path, "127.0.0.1:9229")
	to := netip.MustParseAddrPort("127.0.0.1:9229")
	conn, err := Dial(t.Context(), one.Path, to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if seen, err := io.ReadAll(conn); err != nil || string(seen) != "127.0.0.1" {
		t.Errorf("%q, %v", seen, err)
	}
	if _, err := Dial(t.Context(), other.Path, to); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("in another namespace: %v, want a refusal", err)
	}
	if _, err := Dial(t.Context(), one.Path+"-gone", to); err == nil {
		t.Error("in a namespace that there is not: no error")
	}
	if _, err := Dial(t.Context(), one.Path, netip.MustParseAddrPort("[::1]:9229")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("by IPv6, where nobody listens: %v, want a refusal", err)
	}
	serve(t, one.Path, "[::1]:9230")
	for _, port := range []uint16{9229, 9230} {
		conn, err := DialLoopback(t.Context(), one.Path, port)
		if err != nil {
			t.Errorf("port %d of the loopback device: %v", port, err)
			continue
		}
		conn.Close()
	}
	if _, err := DialLoopback(t.Context(), one.Path, 9231); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a port of the loopback device that nobody listens on: %v, want a refusal", err)
	}
}

// TestDialGivesUp has a listener that accepts nobody, and whose queue is full.
func TestDialGivesUp(t *testing.T) {
	ns := create(t, openNetwork(t), "one")
	var listener int
	if err := within(t, ns.Path, func() (err error) {
		listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return errors.Join(err, unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 9229}), unix.Listen(listener, 0))
	}); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	var err error
	for range 10 {
		var conn net.Conn
		if conn, err = Dial(t.Context(), ns.Path, netip.MustParseAddrPort("127.0.0.1:9229")); err != nil {
			break
		}
		defer conn.Close()
	}
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("a full queue: %v, want a timeout", err)
	}
}
