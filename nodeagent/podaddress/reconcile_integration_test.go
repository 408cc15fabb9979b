//go:build integration

package podaddress

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

// Whatever somebody takes away on the node, one reconciliation puts back.
func TestWhatIsTakenAwayComesBack(t *testing.T) {
	eachNode(t, func(n node) {
		serve(n.T, "wildcard", "[::]:10250")
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		container := serve(n.T, "container", "127.0.0.1:20000")
		must(n.T, owner.Assign(n.hello))
		must(n.T, owner.Assign(n.other))
		must(n.T, owner.Direct(n.hello, container.listener))
		if mended, err := owner.Reconcile(n.Context()); err != nil || len(mended) != 0 {
			n.Fatalf("with nothing missing: %v, %v", mended, err)
		}
		run := func(name string, args ...string) {
			n.Helper()
			if out, err := exec.CommandContext(n.Context(), name, args...).CombinedOutput(); err != nil {
				n.Fatalf("%s %v: %v\n%s", name, args, err, out)
			}
		}
		taken := map[string]func(){
			"the route": func() { removeRoute(n, n.hello) },
		}
		if n.way == TProxy {
			taken["the table"] = func() { run("nft", "delete", "table", "inet", TableName) }
			taken["all rules of the node"] = func() { run("nft", "flush", "ruleset") }
			taken["rules"] = func() { run("nft", "flush", "table", "inet", TableName) }
			taken["an element"] = func() { run("nft", "flush", "set", "inet", TableName, "assigned_"+familyOfAddr(n.hello).name) }
			taken["where it leads"] = func() { run("nft", "flush", "map", "inet", TableName, "sockets_"+familyOfAddr(n.hello).name) }
		} else {
			taken["the program"] = func() { must(n.T, owner.leader.(*skLookup).link.Detach()) }
			taken["the pins"] = func() {
				for _, name := range []string{pinLink, pinAssigned, pinSockets} {
					must(n.T, os.Remove(filepath.Join(pinDir(n.T), name)))
				}
			}
		}
		for what, take := range taken {
			take()
			mended, err := owner.Reconcile(n.Context())
			if err != nil || len(mended) == 0 {
				n.Fatalf("%s: %v, %v", what, mended, err)
			}
			mustAnswer(n.T, "container", n.hello, 10250)
			mustAnswer(n.T, "agent", n.other, 80)
			mustDrop(n.T, n.other.Next(), 10250)
			if mended, err := owner.Reconcile(n.Context()); err != nil || len(mended) != 0 {
				n.Fatalf("%s, once more: %v, %v", what, mended, err)
			}
		}
		if n.way == SkLookup {
			for _, name := range []string{pinLink, pinAssigned, pinSockets} {
				if _, err := os.Stat(filepath.Join(pinDir(n.T), name)); err != nil {
					n.Error(err)
				}
			}
		}
	})
}

// A change finds the table gone before the reconciliation does.
func TestAChangeFindsTheTableGone(t *testing.T) {
	n := node{t, TProxy, netip.MustParseAddr("10.245.3.7"), netip.MustParseAddr("10.245.200.200")}
	owner := n.openOwner(serve(t, "agent", "127.0.0.1:7071").listener)
	must(t, owner.Assign(n.other))
	if out, err := exec.CommandContext(t.Context(), "nft", "flush", "ruleset").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, owner.Assign(n.hello))
	mustAnswer(t, "agent", n.hello, 80)
	mustAnswer(t, "agent", n.other, 80)
}

func removeRoute(n node, addr netip.Addr) {
	n.Helper()
	for _, cidr := range testCIDRs {
		if cidr.Contains(addr) {
			dst := &net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}
			routes, err := ourRoutes(familyOf(dst))
			must(n.T, err)
			for _, route := range routes {
				must(n.T, netlink.RouteDel(&route))
			}
		}
	}
}
