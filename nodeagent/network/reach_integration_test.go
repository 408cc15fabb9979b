//go:build integration

package network

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// patience bounds what must come about, soon what must not.
const (
	patience = 5 * time.Second
	soon     = 300 * time.Millisecond
)

var functions = netip.MustParsePrefix("10.245.0.0/16")

func openNetwork(t *testing.T) *Network {
	t.Helper()
	return openNetworkIn(t, t.TempDir())
}

func openNetworkIn(t *testing.T, dir string) *Network {
	t.Helper()
	n, err := Open(t.Context(), Config{Dir: dir, FunctionCIDRs: []netip.Prefix{functions}})
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

func create(t *testing.T, n *Network, id string) *Namespace {
	t.Helper()
	ns, err := n.Create(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// serve answers connections in a namespace with the caller's address.
func serve(t *testing.T, namespace, addr string) {
	t.Helper()
	var listener net.Listener
	if err := within(t, namespace, func() (err error) {
		listener, err = net.Listen("tcp", addr)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			io.WriteString(conn, host)
			conn.Close()
		}
	}()
}

const node = "/proc/thread-self/ns/net"

// call connects from a namespace and returns the address it was seen as.
func call(t *testing.T, namespace, addr string, timeout time.Duration) (seen string, err error) {
	t.Helper()
	err = within(t, namespace, func() error {
		conn, err := net.DialTimeout("tcp", addr, timeout)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(timeout))
		answer, err := io.ReadAll(conn)
		seen = string(answer)
		return err
	})
	return seen, err
}

func mustReach(t *testing.T, namespace, addr, as string) {
	t.Helper()
	seen, err := call(t, namespace, addr, patience)
	if err != nil {
		t.Errorf("%s: %v, want an answer", addr, err)
	} else if seen != as {
		t.Errorf("%s saw %s, want %s", addr, seen, as)
	}
}

func mustNotReach(t *testing.T, namespace, addr string) {
	t.Helper()
	_, err := call(t, namespace, addr, soon)
	var netErr net.Error
	if err == nil {
		t.Errorf("%s answers", addr)
	} else if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("%s: %v, want no answer", addr, err)
	}
}

func TestContainerReachesTheWorldAsTheNode(t *testing.T) {
	serve(t, world, ":80")
	ns := create(t, openNetwork(t), "one")
	mustReach(t, ns.Path, worldAddr+":80", nodeAddr)
}

func TestContainerReachesNoPortOfTheNode(t *testing.T) {
	for _, port := range []int{22, 7070, 10250, 20000, 30080} {
		serve(t, node, ":"+strconv.Itoa(port))
	}
	ns := create(t, openNetwork(t), "one")
	for _, addr := range []string{"10.246.0.1", nodeAddr} {
		for _, port := range []int{22, 7070, 10250, 20000, 30080} {
			mustNotReach(t, ns.Path, net.JoinHostPort(addr, strconv.Itoa(port)))
		}
	}
	mustReach(t, node, nodeAddr+":22", nodeAddr)
}

func TestContainerReachesNoKubeletOrAgentOfOtherNodes(t *testing.T) {
	for _, port := range DefaultDeniedPorts {
		serve(t, world, ":"+strconv.Itoa(int(port)))
	}
	ns := create(t, openNetwork(t), "one")
	for _, port := range DefaultDeniedPorts {
		mustNotReach(t, ns.Path, net.JoinHostPort(worldAddr, strconv.Itoa(int(port))))
	}
}

func TestContainerReachesNoMetadataService(t *testing.T) {
	serve(t, world, ":80")
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	ns := create(t, openNetwork(t), "one")
	mustReach(t, node, metadataAddr+":80", nodeAddr)
	mustNotReach(t, ns.Path, metadataAddr+":80")
}

func TestContainersDoNotReachEachOther(t *testing.T) {
	n := openNetwork(t)
	one, two := create(t, n, "one"), create(t, n, "two")
	serve(t, two.Path, ":80")
	at := netip.AddrPortFrom(two.Addr, 80).String()
	mustReach(t, node, at, "10.246.0.1")
	// Its neighbour does not even learn its hardware address.
	if _, err := call(t, one.Path, at, soon); err == nil {
		t.Error("a container reaches another")
	}
}

func TestNothingOfTheWorldReachesAContainer(t *testing.T) {
	ns := create(t, openNetwork(t), "one")
	serve(t, ns.Path, ":80")
	if err := within(t, world, func() error {
		_, containers, _ := net.ParseCIDR(DefaultCIDR)
		return netlink.RouteAdd(&netlink.Route{Dst: containers, Gw: net.ParseIP(nodeAddr)})
	}); err != nil {
		t.Fatal(err)
	}
	defer within(t, world, func() error {
		_, containers, _ := net.ParseCIDR(DefaultCIDR)
		return netlink.RouteDel(&netlink.Route{Dst: containers, Gw: net.ParseIP(nodeAddr)})
	})
	mustNotReach(t, world, netip.AddrPortFrom(ns.Addr, 80).String())
}

func TestContainerReachesFunctionPods(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{
		Dst: &net.IPNet{IP: functions.Addr().AsSlice(), Mask: net.CIDRMask(functions.Bits(), 32)}, LinkIndex: lo.Attrs().Index,
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
	}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	defer netlink.RouteDel(route)
	serve(t, node, ":8080")
	serve(t, node, ":10250")
	ns := create(t, openNetwork(t), "one")
	mustReach(t, ns.Path, "10.245.3.7:8080", ns.Addr.String())
	mustReach(t, ns.Path, "10.245.3.7:10250", ns.Addr.String())

	// The same behind a Service's address, as kube-proxy translates it.
	nft(t, `table ip service {
		chain prerouting { type nat hook prerouting priority dstnat; ip daddr 10.96.0.5 tcp dport 80 dnat to 10.245.3.7:8080; }
	}`)
	defer nft(t, "delete table ip service")
	mustReach(t, ns.Path, "10.96.0.5:80", ns.Addr.String())
}

func TestContainerReachesServices(t *testing.T) {
	serve(t, world, ":8080")
	serve(t, node, ":6443")
	serve(t, node, ":10250")
	nft(t, `table ip service {
		chain prerouting { type nat hook prerouting priority dstnat;
			ip daddr 10.96.0.1 tcp dport 443 dnat to 192.0.2.2:6443
			ip daddr 10.96.0.2 tcp dport 80 dnat to 192.0.2.1:8080
			ip daddr 10.96.0.3 tcp dport 80 dnat to 192.0.2.2:10250
			ip daddr 10.96.0.4 tcp dport 80 dnat to 192.0.2.1:10250
		}
		chain postrouting { type nat hook postrouting priority srcnat; meta mark & 0x4000 != 0 masquerade; }
	}`)
	defer nft(t, "delete table ip service")
	ns := create(t, openNetwork(t), "one")
	mustReach(t, ns.Path, "10.96.0.1:443", ns.Addr.String()) // a backend in this node's network
	mustReach(t, ns.Path, "10.96.0.2:80", nodeAddr)
	// A Service is no way to a kubelet.
	mustNotReach(t, ns.Path, "10.96.0.3:80")
	mustNotReach(t, ns.Path, "10.96.0.4:80")
	mustNotReach(t, ns.Path, nodeAddr+":6443")
}

func TestContainerReachesNameServerOnTheNode(t *testing.T) {
	serve(t, node, ":53")
	dir := t.TempDir()
	n, err := Open(t.Context(), Config{Dir: dir, DNS: []netip.Addr{netip.MustParseAddr(nodeAddr)}})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Teardown(context.Background())
	ns := create(t, n, "one")
	mustReach(t, ns.Path, nodeAddr+":53", ns.Addr.String())
	mustNotReach(t, ns.Path, "10.246.0.1:53")
}

func TestContainerHasNoIPv6OnItsInterface(t *testing.T) {
	ns := create(t, openNetwork(t), "one")
	if err := within(t, ns.Path, func() error {
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer links.Close()
		link, err := links.LinkByName(containerInterface)
		if err != nil {
			return err
		}
		addrs, err := links.AddrList(link, netlink.FAMILY_V6)
		if err != nil {
			return err
		}
		if len(addrs) != 0 {
			t.Errorf("addresses %v", addrs)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// A packet that claims an address of another does not pass, should a container
// ever come to send one.
func TestContainerCannotSpeakForAnother(t *testing.T) {
	serve(t, world, ":80")
	ns := create(t, openNetwork(t), "one")
	err := within(t, ns.Path, func() error {
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer links.Close()
		link, err := links.LinkByName(containerInterface)
		if err != nil {
			return err
		}
		addr, err := netlink.ParseAddr("198.51.100.9/32")
		if err != nil {
			return err
		}
		if err := links.AddrAdd(link, addr); err != nil {
			return err
		}
		dialer := net.Dialer{Timeout: soon, LocalAddr: &net.TCPAddr{IP: net.ParseIP("198.51.100.9")}}
		conn, err := dialer.Dial("tcp4", worldAddr+":80")
		if err == nil {
			conn.Close()
		}
		return err
	})
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("got %v, want no answer", err)
	}
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("the test did not send: %v", err)
	}
}
