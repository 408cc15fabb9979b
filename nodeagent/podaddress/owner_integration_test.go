//go:build integration

package podaddress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/network/ranges"
)

var (
	testCIDR = netip.MustParsePrefix("10.245.0.0/16")
	hello    = netip.MustParseAddr("10.245.3.7")
	other    = netip.MustParseAddr("10.245.200.200")
)

// patience bounds what must come about, soon what must not.
const (
	patience = 5 * time.Second
	soon     = 300 * time.Millisecond
)

// server answers every connection with its name and the address it was called at.
type server struct {
	listener *net.TCPListener
	done     chan struct{}
	conns    sync.WaitGroup
}

func serve(t *testing.T, name, addr string) *server {
	t.Helper()
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(t.Context(), "tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{listener: listener.(*net.TCPListener), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s %s", name, conn.LocalAddr())
			})
		}
	}()
	t.Cleanup(s.close)
	return s
}

func (s *server) close() {
	s.listener.Close()
	<-s.done
	s.conns.Wait()
}

func (s *server) file(t *testing.T) *os.File {
	t.Helper()
	file, err := s.listener.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// call connects and reads the whole answer.
func call(addr string, timeout time.Duration) (string, error) {
	conn, err := net.DialTimeout("tcp4", addr, timeout)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func mustAnswer(t *testing.T, name string, addr netip.Addr, port uint16) {
	t.Helper()
	at := netip.AddrPortFrom(addr, port).String()
	answer, err := call(at, patience)
	if err != nil {
		t.Fatalf("%s: %v, want an answer of %s", at, err, name)
	}
	if want := name + " " + at; answer != want {
		t.Fatalf("%s: answer %q, want %q", at, answer, want)
	}
}

// mustDrop: the kernel answers a dropped lookup as if nobody listened, or not at
// all.
func mustDrop(t *testing.T, addr netip.Addr, port uint16) {
	t.Helper()
	at := netip.AddrPortFrom(addr, port).String()
	answer, err := call(at, soon)
	var netErr net.Error
	switch {
	case err == nil:
		t.Fatalf("%s: answer %q, want none", at, answer)
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &netErr) && netErr.Timeout():
	default:
		t.Fatalf("%s: %v, want a refusal or no answer", at, err)
	}
}

func pinDir(t *testing.T) string { return filepath.Join(bpffs, t.Name()) }

func openOwner(t *testing.T, listener syscall.Conn) *Owner {
	t.Helper()
	owner, err := Open(t.Context(), Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: listener})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := owner.Uninstall(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return owner
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnassignedAddressesAreDroppedThoughAServiceListensEverywhere(t *testing.T) {
	serve(t, "wildcard", "0.0.0.0:10250")
	openOwner(t, serve(t, "agent", "127.0.0.1:7071").listener)
	for _, addr := range []string{"10.245.0.0", "10.245.0.1", "10.245.3.7", "10.245.128.9", "10.245.255.255"} {
		for _, port := range []uint16{80, 7071, 10250} {
			mustDrop(t, netip.MustParseAddr(addr), port)
		}
	}
	// The service still answers where it should.
	mustAnswer(t, "wildcard", netip.MustParseAddr("127.0.0.1"), 10250)
	mustAnswer(t, "agent", netip.MustParseAddr("127.0.0.1"), 7071)
}

func TestAddressGoesFromAgentToContainerAndBack(t *testing.T) {
	serve(t, "wildcard", "0.0.0.0:10250")
	owner := openOwner(t, serve(t, "agent", "127.0.0.1:7071").listener)
	container := serve(t, "container", "127.0.0.1:20000")
	ports := []uint16{1, 80, 8080, 10250, 20000, 65535}
	all := func(name string) {
		t.Helper()
		for _, port := range ports {
			mustAnswer(t, name, hello, port)
		}
		mustAnswer(t, "agent", other, 80)
	}
	must(t, owner.Assign(other))
	must(t, owner.Assign(hello))
	all("agent")
	must(t, owner.Direct(hello, container.file(t)))
	all("container")
	must(t, owner.Park(hello))
	all("agent")
	must(t, owner.Park(hello))
	must(t, owner.Direct(hello, container.listener))
	all("container")
	must(t, owner.Remove(hello))
	for _, port := range ports {
		mustDrop(t, hello, port)
	}
	must(t, owner.Remove(hello))
	mustAnswer(t, "agent", other, 80)

	// The next pod of the address does not inherit the socket.
	must(t, owner.Assign(hello))
	all("agent")
}

func TestAddressOfADeadContainerFallsBackToTheAgent(t *testing.T) {
	owner := openOwner(t, serve(t, "agent", "127.0.0.1:7071").listener)
	container := serve(t, "container", "127.0.0.1:20000")
	must(t, owner.Assign(hello))
	must(t, owner.Direct(hello, container.listener))
	mustAnswer(t, "container", hello, 80)
	container.close()
	mustAnswer(t, "agent", hello, 80)
}

func TestEstablishedConnectionsOutliveEveryChange(t *testing.T) {
	owner := openOwner(t, serve(t, "agent", "127.0.0.1:7071").listener)
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(t.Context(), "tcp4", "127.0.0.1:20000")
	must(t, err)
	defer listener.Close()
	must(t, owner.Assign(hello))
	must(t, owner.Direct(hello, listener.(*net.TCPListener)))
	client, err := net.DialTimeout("tcp4", "10.245.3.7:80", patience)
	must(t, err)
	defer client.Close()
	conn, err := listener.Accept()
	must(t, err)
	defer conn.Close()
	must(t, owner.Park(hello))
	must(t, owner.Remove(hello))
	_, err = io.WriteString(conn, "still here")
	must(t, err)
	must(t, conn.Close())
	client.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(client); err != nil || string(got) != "still here" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestUDPIsDropped(t *testing.T) {
	receiver, err := net.ListenPacket("udp4", "0.0.0.0:5353")
	must(t, err)
	defer receiver.Close()
	owner := openOwner(t, serve(t, "agent", "127.0.0.1:7071").listener)
	must(t, owner.Assign(hello))
	buffer := make([]byte, 100)
	for _, addr := range []netip.Addr{hello, other} {
		sender, err := net.Dial("udp4", netip.AddrPortFrom(addr, 5353).String())
		must(t, err)
		_, _ = io.WriteString(sender, "to "+addr.String())
		sender.Close()
		receiver.SetReadDeadline(time.Now().Add(soon))
		if n, _, err := receiver.ReadFrom(buffer); err == nil {
			t.Errorf("received %q", buffer[:n])
		}
	}
	// The receiver does receive elsewhere.
	sender, err := net.Dial("udp4", "127.0.0.1:5353")
	must(t, err)
	defer sender.Close()
	_, err = io.WriteString(sender, "x")
	must(t, err)
	receiver.SetReadDeadline(time.Now().Add(patience))
	if _, _, err := receiver.ReadFrom(buffer); err != nil {
		t.Error(err)
	}
}

func TestMisuseIsRefused(t *testing.T) {
	agent := serve(t, "agent", "127.0.0.1:7071")
	owner := openOwner(t, agent.listener)
	if err := owner.Direct(hello, agent.listener); !errors.Is(err, ErrNotAssigned) {
		t.Errorf("Direct of an unassigned address: %v, want %v", err, ErrNotAssigned)
	}
	if err := owner.Assign(netip.MustParseAddr("10.246.0.1")); !errors.Is(err, ErrOutside) {
		t.Errorf("Assign outside: %v, want %v", err, ErrOutside)
	}
	must(t, owner.Assign(hello))

	multipath, err := net.Listen("tcp4", "127.0.0.1:0") // Go's default
	must(t, err)
	defer multipath.Close()
	if err := owner.Direct(hello, multipath.(*net.TCPListener)); !errors.Is(err, ErrNotListener) {
		t.Errorf("Direct to a multipath TCP listener: %v, want %v", err, ErrNotListener)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	must(t, err)
	plain := os.NewFile(uintptr(fd), "plain")
	defer plain.Close()
	if err := owner.Direct(hello, plain); !errors.Is(err, ErrNotListener) {
		t.Errorf("Direct to a socket that does not listen: %v, want %v", err, ErrNotListener)
	}
}

func TestRangeInUseIsRefused(t *testing.T) {
	agent := serve(t, "agent", "127.0.0.1:7071")
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	addr, err := netlink.ParseAddr("10.245.9.9/32")
	must(t, err)
	must(t, netlink.AddrAdd(lo, addr))
	config := Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: agent.listener}
	_, err = Open(t.Context(), config)
	if !errors.Is(err, ranges.ErrInUse) {
		t.Fatalf("got %v, want %v", err, ranges.ErrInUse)
	}
	t.Log(err)
	must(t, netlink.AddrDel(lo, addr))
	openOwner(t, agent.listener)
}

func TestEverythingGoesWithUninstall(t *testing.T) {
	serve(t, "wildcard", "0.0.0.0:10250")
	owner, err := Open(t.Context(), Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: serve(t, "agent", "127.0.0.1:7071").listener})
	must(t, err)
	must(t, owner.Uninstall(t.Context()))
	if _, err := os.Stat(pinDir(t)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pin folder: %v, want it gone", err)
	}
	if answer, err := call("10.245.3.7:10250", soon); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("got %q, %v, want no route", answer, err)
	}
}

func TestHostCallsFromSourceAddress(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	addr, err := netlink.ParseAddr("192.0.2.10/32")
	must(t, err)
	must(t, netlink.AddrAdd(lo, addr))
	defer netlink.AddrDel(lo, addr)
	agent := serve(t, "agent", "192.0.2.10:7071")
	owner, err := Open(t.Context(), Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: agent.listener, Source: netip.MustParseAddr("192.0.2.10")})
	must(t, err)
	defer owner.Uninstall(context.Background())
	must(t, owner.Assign(hello))
	conn, err := net.DialTimeout("tcp4", "10.245.3.7:80", patience)
	must(t, err)
	defer conn.Close()
	if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != "192.0.2.10" {
		t.Errorf("called from %s, want 192.0.2.10", got)
	}
}

func TestAssignedSurvivesRestart(t *testing.T) {
	agent := serve(t, "agent", "127.0.0.1:7071")
	first, err := Open(t.Context(), Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: agent.listener})
	must(t, err)
	must(t, first.Assign(hello))
	must(t, first.Close())
	second := openOwner(t, agent.listener)
	addrs, err := second.Assigned()
	must(t, err)
	if diff := cmp.Diff([]string{hello.String()}, texts(addrs)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func texts(addrs []netip.Addr) (texts []string) {
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	return texts
}
