//go:build integration

package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var (
	testCIDR6  = netip.MustParsePrefix("fd53::/64")
	functions6 = netip.MustParsePrefix("fd10:245::/64")
)

func openDualStack(t *testing.T) *Network {
	t.Helper()
	n, err := Open(t.Context(), Config{Dir: t.TempDir(), CIDR6: testCIDR6, FunctionCIDRs: []netip.Prefix{functions, functions6}})
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

func TestContainerReachesTheWorldOverIPv6AsTheNode(t *testing.T) {
	serve(t, world, "[::]:80")
	ns := create(t, openDualStack(t), "one")
	mustReach(t, ns.Path, "["+worldAddr6+"]:80", nodeAddr6)
	mustReach(t, ns.Path, worldAddr+":80", nodeAddr)
}

func TestContainerReachesOverIPv6WhatItMayAndNothingElse(t *testing.T) {
	for _, port := range []int{22, 7070, 10250, 20000, 30080} {
		serve(t, node, "[::]:"+strconv.Itoa(port))
	}
	for _, port := range append([]uint16{80}, DefaultDeniedPorts...) {
		serve(t, world, "[::]:"+strconv.Itoa(int(port)))
	}
	n := openDualStack(t)
	one, two := create(t, n, "one"), create(t, n, "two")
	serve(t, two.Path, "[::]:80")
	for _, addr := range []string{testCIDR6.Addr().Next().String(), nodeAddr6} {
		for _, port := range []int{22, 7070, 10250, 20000, 30080} {
			mustNotReach(t, one.Path, net.JoinHostPort(addr, strconv.Itoa(port)))
		}
	}
	for _, port := range DefaultDeniedPorts {
		mustNotReach(t, one.Path, net.JoinHostPort(worldAddr6, strconv.Itoa(int(port))))
	}
	mustReach(t, node, net.JoinHostPort(nodeAddr6, "22"), nodeAddr6)
	neighbour := net.JoinHostPort(n.config.address6(two.Addr).String(), "80")
	mustReach(t, node, neighbour, testCIDR6.Addr().Next().String())
	if _, err := call(t, one.Path, neighbour, soon); err == nil {
		t.Error("a container reaches another")
	}
}

func TestContainerReachesNoMetadataServiceOverIPv6(t *testing.T) {
	serve(t, world, "[::]:80")
	ns := create(t, openDualStack(t), "one")
	for _, addr := range []string{metadataAddr6, metadataAddr64} {
		mustReach(t, node, net.JoinHostPort(addr, "80"), nodeAddr6)
		mustNotReach(t, ns.Path, net.JoinHostPort(addr, "80"))
	}
}

func TestContainerReachesFunctionPodsOverIPv6(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{
		Dst: &net.IPNet{IP: functions6.Addr().AsSlice(), Mask: net.CIDRMask(functions6.Bits(), 128)}, LinkIndex: lo.Attrs().Index,
		Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
	}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	defer netlink.RouteDel(route)
	serve(t, node, "[::]:8080")
	n := openDualStack(t)
	ns := create(t, n, "one")
	mustReach(t, ns.Path, "[fd10:245::7]:8080", n.config.address6(ns.Addr).String())
	// The same behind a Service's address, as kube-proxy translates it.
	nft(t, `table ip6 service {
		chain prerouting { type nat hook prerouting priority dstnat; ip6 daddr fd10:96::5 tcp dport 80 dnat to [fd10:245::7]:8080; }
	}`)
	defer nft(t, "delete table ip6 service")
	mustReach(t, ns.Path, "[fd10:96::5]:80", n.config.address6(ns.Addr).String())
}

// A node without IPv6 has containers without it, not ones that try in vain.
func TestContainersOfANodeWithoutIPv6HaveNone(t *testing.T) {
	uplink, err := netlink.LinkByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(nodeAddr6 + "/64")
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	if err := netlink.AddrDel(uplink, addr); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := netlink.AddrAdd(uplink, addr); err != nil {
			t.Fatal(err)
		}
		if err := netlink.RouteReplace(&netlink.Route{Gw: net.ParseIP(worldAddr6)}); err != nil {
			t.Fatal(err)
		}
	}()
	ns := create(t, openDualStack(t), "one")
	if err := within(t, ns.Path, func() error {
		addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
		for _, addr := range addrs {
			if !addr.IP.IsLoopback() {
				t.Errorf("address %v", addr)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWhatIsTakenAwayOfTheNetworkComesBack(t *testing.T) {
	serve(t, world, "[::]:80")
	serve(t, node, "[::]:22")
	n := openDualStack(t)
	ns := create(t, n, "one")
	if mended, err := n.Reconcile(t.Context()); err != nil || len(mended) != 0 {
		t.Fatalf("with nothing missing: %v, %v", mended, err)
	}
	for _, take := range []string{
		"nft flush ruleset", "nft delete table inet " + TableName, "nft flush chain inet " + TableName + " container_to_node",
		"ip address flush dev " + DefaultBridge, "ip -6 address flush dev " + DefaultBridge, "ip link set " + DefaultBridge + " down",
	} {
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", take).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", take, err, out)
		}
		if mended, err := n.Reconcile(t.Context()); err != nil || len(mended) == 0 {
			t.Fatalf("%s: %v, %v", take, mended, err)
		}
		mustReach(t, ns.Path, worldAddr+":80", nodeAddr)
		mustReach(t, ns.Path, "["+worldAddr6+"]:80", nodeAddr6)
		mustNotReach(t, ns.Path, nodeAddr+":22")
		if mended, err := n.Reconcile(t.Context()); err != nil || len(mended) != 0 {
			t.Fatalf("%s, once more: %v, %v", take, mended, err)
		}
	}
}

// The bounds of a container's connections hold over IPv6 as over IPv4.
func TestContainersConnectionsOverIPv6AreBounded(t *testing.T) {
	const most = 5
	n, err := Open(t.Context(), Config{Dir: t.TempDir(), CIDR6: testCIDR6, Connections: most})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := within(t, world, func() error {
		listener, err := net.Listen("tcp", "["+worldAddr6+"]:8080")
		if err == nil {
			t.Cleanup(func() { listener.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	connect := func(ns *Namespace, timeout time.Duration) error {
		return within(t, ns.Path, func() error {
			conn, err := net.DialTimeout("tcp6", "["+worldAddr6+"]:8080", timeout)
			if err == nil {
				t.Cleanup(func() { conn.Close() })
			}
			return err
		})
	}
	many, other := create(t, n, "many"), create(t, n, "other")
	for i := range most {
		if err := connect(many, patience); err != nil {
			t.Fatalf("connection %d: %v", i+1, err)
		}
	}
	if err := connect(many, soon); err == nil {
		t.Errorf("connection %d is made", most+1)
	}
	if err := connect(other, patience); err != nil {
		t.Errorf("a neighbour: %v", err)
	}
}

// Of the range only what is a container's is taken as the source of packets, or one
// container could have as many shares as it likes.
func TestContainerCannotSpeakForOthersOverIPv6(t *testing.T) {
	serve(t, world, "[::]:80")
	n := openDualStack(t)
	ns := create(t, n, "one")
	err := within(t, ns.Path, func() error {
		link, err := netlink.LinkByName(containerInterface)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, addressIn(testCIDR6, netip.MustParseAddr("fd53::abcd:0:0:7"))); err != nil {
			return err
		}
		dialer := net.Dialer{Timeout: soon, LocalAddr: &net.TCPAddr{IP: net.ParseIP("fd53::abcd:0:0:7")}}
		conn, err := dialer.Dial("tcp6", "["+worldAddr6+"]:80")
		if err == nil {
			conn.Close()
		}
		return err
	})
	var netErr net.Error
	if !errors.As(err, &netErr) || !netErr.Timeout() {
		t.Errorf("got %v, want no answer", err)
	}
}
