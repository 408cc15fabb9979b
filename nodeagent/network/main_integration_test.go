//go:build integration

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sanfran.dev/internal/testnode"
)

// The node's link to the world beyond, which is one more network namespace.
const (
	nodeAddr     = "192.0.2.2"
	worldAddr    = "192.0.2.1"
	metadataAddr = "169.254.169.254"

	nodeAddr6     = "2001:db8::2"
	worldAddr6    = "2001:db8::1"
	metadataAddr6 = "fd00:ec2::254"
	// metadataAddr64 is metadataAddr behind a NAT64.
	metadataAddr64 = "64:ff9b::169.254.169.254"
)

// world is the file of the world's namespace.
var world string

func TestMain(m *testing.M) {
	testnode.Enter()
	dir, err := os.MkdirTemp("", "sanfran-world-")
	if err == nil {
		world = dir + "/world"
		err = makeWorld()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := errors.Join(unix.Unmount(world, unix.MNT_DETACH), os.RemoveAll(dir)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

// makeWorld joins the node and a namespace beyond it, which also plays a cloud's
// metadata service.
func makeWorld() error {
	node, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer node.Close()
	if err := os.WriteFile(world, nil, 0o600); err != nil {
		return err
	}
	if err := inNewNamespace(world, func() error {
		links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer links.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "node"
		if err := links.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "uplink", PeerNamespace: netlink.NsFd(int(node.Fd()))}); err != nil {
			return err
		}
		return up(links, map[string][]string{"lo": nil, "node": {worldAddr + "/24", metadataAddr + "/32", worldAddr6 + "/64", metadataAddr6 + "/128", metadataAddr64 + "/128"}})
	}); err != nil {
		return err
	}
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer links.Close()
	if err := up(links, map[string][]string{"lo": nil, "uplink": {nodeAddr + "/24", nodeAddr6 + "/64"}}); err != nil {
		return err
	}
	return errors.Join(links.RouteAdd(&netlink.Route{Gw: net.ParseIP(worldAddr)}), links.RouteAdd(&netlink.Route{Gw: net.ParseIP(worldAddr6)}))
}

func up(links *netlink.Handle, addrs map[string][]string) error {
	for name, list := range addrs {
		link, err := links.LinkByName(name)
		if err != nil {
			return err
		}
		for _, text := range list {
			addr, err := netlink.ParseAddr(text)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD
			}
			if err := links.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		if err := links.LinkSetUp(link); err != nil {
			return err
		}
	}
	return nil
}

// within runs do on a thread in the network namespace of the file.
func within(t *testing.T, path string, do func() error) error {
	t.Helper()
	return onThreadOfItsOwn(func() error {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// nft feeds nft, which plays other programs that keep rules on the node.
func nft(t *testing.T, script string) {
	t.Helper()
	command := exec.CommandContext(context.Background(), "nft", "-f", "-")
	command.Stdin = strings.NewReader(script)
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v\n%s", err, out)
	}
}
