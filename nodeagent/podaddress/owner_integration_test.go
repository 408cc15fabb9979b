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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/network/ranges"
	"sanfran.dev/nodeagent/socket"
)

var testCIDRs = []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd10:245::/64")}

// node is how a test's node is: all promises hold for each.
type node struct {
	*testing.T
	way Way
	// hello and other are function pods' addresses, of one family.
	hello, other netip.Addr
}

// eachNode runs a test for each way and family.
func eachNode(t *testing.T, test func(n node)) {
	for _, way := range []Way{SkLookup, TProxy} {
		for name, addrs := range map[string][2]string{
			"IPv4": {"10.245.3.7", "10.245.200.200"},
			"IPv6": {"fd10:245::3:7", "fd10:245::ffff:0:0:200"},
		} {
			t.Run(string(way)+"/"+name, func(t *testing.T) {
				test(node{t, way, netip.MustParseAddr(addrs[0]), netip.MustParseAddr(addrs[1])})
			})
		}
	}
}

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
	listener, err := socket.Listen(netip.MustParseAddrPort(addr), true)
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
	conn, err := net.DialTimeout("tcp", addr, timeout)
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

func pinDir(t *testing.T) string { return filepath.Join(bpffs, strings.ReplaceAll(t.Name(), "/", "-")) }

func (n node) config(listener syscall.Conn) Config {
	return Config{CIDRs: testCIDRs, Way: n.way, PinDir: pinDir(n.T), Listener: listener}
}

func (n node) open(config Config) *Owner {
	n.Helper()
	owner, err := Open(n.Context(), config)
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() {
		if err := owner.Uninstall(context.Background()); err != nil {
			n.Error(err)
		}
	})
	return owner
}

func (n node) openOwner(listener syscall.Conn) *Owner {
	n.Helper()
	return n.open(n.config(listener))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnassignedAddressesAreDroppedThoughAServiceListensEverywhere(t *testing.T) {
	eachNode(t, func(n node) {
		serve(n.T, "wildcard", "[::]:10250")
		n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		for _, addr := range []string{"10.245.0.0", "10.245.0.1", "10.245.3.7", "10.245.128.9", "10.245.255.255", "fd10:245::", "fd10:245::3:7", "fd10:245::ffff:ffff:ffff:ffff"} {
			if netip.MustParseAddr(addr).Is4() != n.hello.Is4() {
				continue
			}
			for _, port := range []uint16{80, 7071, 10250} {
				mustDrop(n.T, netip.MustParseAddr(addr), port)
			}
		}
		// The service still answers where it should.
		mustAnswer(n.T, "wildcard", netip.MustParseAddr("127.0.0.1"), 10250)
		mustAnswer(n.T, "agent", netip.MustParseAddr("127.0.0.1"), 7071)
	})
}

func TestAddressGoesFromAgentToContainerAndBack(t *testing.T) {
	eachNode(t, func(n node) {
		serve(n.T, "wildcard", "[::]:10250")
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		container := serve(n.T, "container", "127.0.0.1:20000")
		ports := []uint16{1, 80, 8080, 10250, 20000, 65535}
		all := func(name string) {
			n.Helper()
			for _, port := range ports {
				mustAnswer(n.T, name, n.hello, port)
			}
			mustAnswer(n.T, "agent", n.other, 80)
		}
		must(n.T, owner.Assign(n.other))
		must(n.T, owner.Assign(n.hello))
		all("agent")
		must(n.T, owner.Direct(n.hello, container.file(n.T)))
		all("container")
		must(n.T, owner.Park(n.hello))
		all("agent")
		must(n.T, owner.Park(n.hello))
		must(n.T, owner.Direct(n.hello, container.listener))
		all("container")
		must(n.T, owner.Remove(n.hello))
		for _, port := range ports {
			mustDrop(n.T, n.hello, port)
		}
		must(n.T, owner.Remove(n.hello))
		mustAnswer(n.T, "agent", n.other, 80)

		// The next pod of the address does not inherit the socket.
		must(n.T, owner.Assign(n.hello))
		all("agent")
	})
}

func TestAddressOfADeadContainerFallsBackToTheAgent(t *testing.T) {
	eachNode(t, func(n node) {
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		container := serve(n.T, "container", "127.0.0.1:20000")
		must(n.T, owner.Assign(n.hello))
		must(n.T, owner.Direct(n.hello, container.listener))
		mustAnswer(n.T, "container", n.hello, 80)
		container.close()
		mustAnswer(n.T, "agent", n.hello, 80)
	})
}

// Several containers of a pod share its connections, whatever comes and goes.
func TestSeveralSocketsShareAnAddress(t *testing.T) {
	eachNode(t, func(n node) {
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		one, two, three := serve(n.T, "one", "127.0.0.1:20001"), serve(n.T, "two", "127.0.0.1:20002"), serve(n.T, "three", "127.0.0.1:20003")
		must(n.T, owner.Assign(n.hello))
		must(n.T, owner.Assign(n.other))
		// shares counts who answers. Clients' ports are the kernel's choice.
		const calls = 240
		shares := func() map[string]int {
			n.Helper()
			counts := map[string]int{}
			for range calls {
				answer, err := call(netip.AddrPortFrom(n.hello, 80).String(), patience)
				must(n.T, err)
				name, _, _ := strings.Cut(answer, " ")
				counts[name]++
			}
			mustAnswer(n.T, "agent", n.other, 80)
			return counts
		}
		want := func(when string, counts map[string]int, names ...string) {
			n.Helper()
			n.Logf("%s: %v", when, counts)
			for _, name := range names {
				if counts[name] < calls/len(names)/3 {
					n.Errorf("%s: %s has %d of %d", when, name, counts[name], calls)
				}
			}
			if len(counts) != len(names) {
				n.Errorf("%s: %v answered, want %v", when, counts, names)
			}
		}
		must(n.T, owner.Spread(n.hello, one.listener, two.listener, three.listener))
		want("three", shares(), "one", "two", "three")
		must(n.T, owner.Spread(n.hello, one.listener, two.listener))
		want("two", shares(), "one", "two")
		two.close()
		want("one of two is dead", shares(), "one", "agent")
		must(n.T, owner.Direct(n.hello, three.listener))
		want("another alone", shares(), "three")
		must(n.T, owner.Spread(n.hello, one.listener, three.listener))
		must(n.T, owner.Park(n.hello))
		want("parked", shares(), "agent")
		must(n.T, owner.Spread(n.hello, one.listener, three.listener))
		must(n.T, owner.Remove(n.hello))
		must(n.T, owner.Assign(n.hello))
		want("the next pod of the address", shares(), "agent")
	})
}

func TestEstablishedConnectionsOutliveEveryChange(t *testing.T) {
	eachNode(t, func(n node) {
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		listener, err := socket.Listen(netip.MustParseAddrPort("127.0.0.1:20000"), true)
		must(n.T, err)
		defer listener.Close()
		must(n.T, owner.Assign(n.hello))
		must(n.T, owner.Direct(n.hello, listener.(*net.TCPListener)))
		client, err := net.DialTimeout("tcp", netip.AddrPortFrom(n.hello, 80).String(), patience)
		must(n.T, err)
		defer client.Close()
		conn, err := listener.Accept()
		must(n.T, err)
		defer conn.Close()
		must(n.T, owner.Park(n.hello))
		must(n.T, owner.Remove(n.hello))
		_, err = io.WriteString(conn, "still here")
		must(n.T, err)
		must(n.T, conn.Close())
		client.SetDeadline(time.Now().Add(patience))
		if got, err := io.ReadAll(client); err != nil || string(got) != "still here" {
			n.Errorf("got %q, %v", got, err)
		}
	})
}

func TestUDPIsDropped(t *testing.T) {
	eachNode(t, func(n node) {
		receiver, err := net.ListenPacket("udp", "[::]:5353")
		must(n.T, err)
		defer receiver.Close()
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		must(n.T, owner.Assign(n.hello))
		buffer := make([]byte, 100)
		for _, addr := range []netip.Addr{n.hello, n.other} {
			sender, err := net.Dial("udp", netip.AddrPortFrom(addr, 5353).String())
			must(n.T, err)
			_, _ = io.WriteString(sender, "to "+addr.String())
			sender.Close()
			receiver.SetReadDeadline(time.Now().Add(soon))
			if length, _, err := receiver.ReadFrom(buffer); err == nil {
				n.Errorf("received %q", buffer[:length])
			}
		}
		// The receiver does receive elsewhere.
		sender, err := net.Dial("udp4", "127.0.0.1:5353")
		must(n.T, err)
		defer sender.Close()
		_, err = io.WriteString(sender, "x")
		must(n.T, err)
		receiver.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := receiver.ReadFrom(buffer); err != nil {
			n.Error(err)
		}
	})
}

func TestMisuseIsRefused(t *testing.T) {
	eachNode(t, func(n node) {
		agent := serve(n.T, "agent", "127.0.0.1:7071")
		owner := n.openOwner(agent.listener)
		if err := owner.Direct(n.hello, agent.listener); !errors.Is(err, ErrNotAssigned) {
			n.Errorf("Direct of an unassigned address: %v, want %v", err, ErrNotAssigned)
		}
		if err := owner.Assign(netip.MustParseAddr("10.246.0.1")); !errors.Is(err, ErrOutside) {
			n.Errorf("Assign outside: %v, want %v", err, ErrOutside)
		}
		must(n.T, owner.Assign(n.hello))

		multipath, err := net.Listen("tcp4", "127.0.0.1:0") // Go's default
		must(n.T, err)
		defer multipath.Close()
		if err := owner.Direct(n.hello, multipath.(*net.TCPListener)); !errors.Is(err, ErrNotListener) {
			n.Errorf("Direct to a multipath TCP listener: %v, want %v", err, ErrNotListener)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		must(n.T, err)
		v4, err := socket.Listen(netip.MustParseAddrPort("127.0.0.1:20001"), false)
		must(n.T, err)
		defer v4.Close()
		if err := owner.Direct(n.hello, v4.(*net.TCPListener)); n.hello.Is6() && !errors.Is(err, ErrNotListener) || n.hello.Is4() && err != nil {
			n.Errorf("Direct to a listener of IPv4: %v", err)
		}
		plain := os.NewFile(uintptr(fd), "plain")
		defer plain.Close()
		if err := owner.Direct(n.hello, plain); !errors.Is(err, ErrNotListener) {
			n.Errorf("Direct to a socket that does not listen: %v, want %v", err, ErrNotListener)
		}
	})
}

func TestRangeInUseIsRefused(t *testing.T) {
	eachNode(t, func(n node) {
		agent := serve(n.T, "agent", "127.0.0.1:7071")
		lo, err := netlink.LinkByName("lo")
		must(n.T, err)
		addr, err := netlink.ParseAddr(netip.PrefixFrom(n.other, n.other.BitLen()).String())
		must(n.T, err)
		must(n.T, netlink.AddrAdd(lo, addr))
		config := n.config(agent.listener)
		_, err = Open(n.Context(), config)
		if !errors.Is(err, ranges.ErrInUse) {
			n.Fatalf("got %v, want %v", err, ranges.ErrInUse)
		}
		n.Log(err)
		must(n.T, netlink.AddrDel(lo, addr))
		n.openOwner(agent.listener)
	})
}

func TestEverythingGoesWithUninstall(t *testing.T) {
	eachNode(t, func(n node) {
		serve(n.T, "wildcard", "[::]:10250")
		owner, err := Open(n.Context(), n.config(serve(n.T, "agent", "127.0.0.1:7071").listener))
		must(n.T, err)
		must(n.T, owner.Uninstall(n.Context()))
		if _, err := os.Stat(pinDir(n.T)); !errors.Is(err, os.ErrNotExist) {
			n.Errorf("pin folder: %v, want it gone", err)
		}
		if answer, err := call(netip.AddrPortFrom(n.hello, 10250).String(), soon); !errors.Is(err, syscall.ENETUNREACH) {
			n.Errorf("got %q, %v, want no route", answer, err)
		}
	})
}

func TestHostCallsFromSourceAddress(t *testing.T) {
	eachNode(t, func(n node) {
		source := netip.MustParseAddr("192.0.2.10")
		if n.hello.Is6() {
			source = netip.MustParseAddr("2001:db8::10")
		}
		lo, err := netlink.LinkByName("lo")
		must(n.T, err)
		addr, err := netlink.ParseAddr(netip.PrefixFrom(source, source.BitLen()).String())
		must(n.T, err)
		addr.Flags = unix.IFA_F_NODAD
		must(n.T, netlink.AddrAdd(lo, addr))
		defer netlink.AddrDel(lo, addr)
		config := n.config(serve(n.T, "agent", "127.0.0.1:7071").listener)
		config.Sources = []netip.Addr{source}
		owner, err := Open(n.Context(), config)
		must(n.T, err)
		defer owner.Uninstall(context.Background())
		must(n.T, owner.Assign(n.hello))
		conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(n.hello, 80).String(), patience)
		must(n.T, err)
		defer conn.Close()
		if got := conn.LocalAddr().(*net.TCPAddr).IP.String(); got != source.String() {
			n.Errorf("called from %s, want %s", got, source)
		}
	})
}

func TestAssignedSurvivesRestart(t *testing.T) {
	eachNode(t, func(n node) {
		agent := serve(n.T, "agent", "127.0.0.1:7071")
		first, err := Open(n.Context(), n.config(agent.listener))
		must(n.T, err)
		must(n.T, first.Assign(n.hello))
		must(n.T, first.Close())
		second := n.openOwner(agent.listener)
		addrs, err := second.Assigned()
		must(n.T, err)
		if diff := cmp.Diff([]string{n.hello.String()}, texts(addrs)); diff != "" {
			n.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func texts(addrs []netip.Addr) (texts []string) {
	for _, addr := range addrs {
		texts = append(texts, addr.String())
	}
	return texts
}
