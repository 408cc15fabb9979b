//go:build integration

package network

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// dial connects from a namespace and keeps the connection.
func dial(t *testing.T, namespace string, timeout time.Duration) (conn net.Conn, err error) {
	t.Helper()
	err = within(t, namespace, func() error {
		conn, err = net.DialTimeout("tcp4", worldAddr+":8080", timeout)
		return err
	})
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return conn, err
}

// listenInWorld accepts nothing: the kernel establishes what comes.
func listenInWorld(t *testing.T) {
	t.Helper()
	if err := within(t, world, func() error {
		listener, err := net.Listen("tcp", worldAddr+":8080")
		if err == nil {
			t.Cleanup(func() { listener.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func openBounded(t *testing.T, connections, perSecond uint32) *Network {
	t.Helper()
	n, err := Open(t.Context(), Config{Dir: t.TempDir(), Connections: connections, NewConnections: perSecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func TestContainersConnectionsAreBounded(t *testing.T) {
	const most = 5
	n := openBounded(t, most, 1000)
	listenInWorld(t)
	ns, other := create(t, n, "many"), create(t, n, "other")
	var first net.Conn
	for i := range most {
		conn, err := dial(t, ns.Path, patience)
		if err != nil {
			t.Fatalf("connection %d of %d: %v", i+1, most, err)
		}
		if first == nil {
			first = conn
		}
	}
	if _, err := dial(t, ns.Path, soon); err == nil {
		t.Errorf("%d connections are open, %d may", most+1, most)
	}
	if _, err := dial(t, other.Path, patience); err != nil {
		t.Errorf("another container: %v", err)
	}
	if err := first.(*net.TCPConn).SetLinger(0); err != nil { // gone at once
		t.Fatal(err)
	}
	first.Close()
	if _, err := dial(t, ns.Path, patience); err != nil {
		t.Errorf("after one is closed: %v", err)
	}
}

func TestContainersNewConnectionsAreBounded(t *testing.T) {
	const tries = 40
	n := openBounded(t, 1000, 1)
	listenInWorld(t)
	ns, other := create(t, n, "fast"), create(t, n, "other")
	var made atomic.Int32
	var all sync.WaitGroup
	for range tries {
		all.Go(func() {
			if _, err := dial(t, ns.Path, 2*time.Second); err == nil {
				made.Add(1)
			}
		})
	}
	all.Wait()
	// TCP tries again, and one more may begin each second.
	if made := made.Load(); made < burst || made > tries/2 {
		t.Errorf("%d of %d connections were made within two seconds, want some %d", made, tries, burst)
	}
	if _, err := dial(t, other.Path, patience); err != nil {
		t.Errorf("another container: %v", err)
	}
}

// Packets of one flow that nobody answers are one connection.
func TestAOneWayFlowIsOneConnection(t *testing.T) {
	const packets = 100
	n := openBounded(t, 1000, 1)
	var server net.PacketConn
	if err := within(t, world, func() (err error) {
		server, err = net.ListenPacket("udp4", worldAddr+":8125")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ns := create(t, n, "metrics")
	if err := within(t, ns.Path, func() error {
		conn, err := net.Dial("udp4", worldAddr+":8125")
		if err != nil {
			return err
		}
		defer conn.Close()
		for range packets {
			if _, err := conn.Write([]byte("requests:1|c")); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := server.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for i := range packets {
		if _, _, err := server.ReadFrom(make([]byte, 100)); err != nil {
			t.Fatalf("packet %d of %d: %v", i+1, packets, err)
		}
	}
}
