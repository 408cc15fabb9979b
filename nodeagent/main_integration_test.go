//go:build integration

package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sanfran.dev/internal/process"
	"sanfran.dev/internal/supervisor"
	"sanfran.dev/internal/testnode"
	"sanfran.dev/nodeagent/container/containertest"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// nodeIP is the node's address there.
const (
	nodeIP  = "192.0.2.2"
	nodeIP6 = "2001:db8::2"
)

// Set for a copy of the test binary that is nothing but an agent: its work
// directory, and where its control plane is. The BPF filesystem is the parent's.
// One that is supervised is its own supervisor, and a child of that.
const (
	victimDir          = "SANFRAN_TEST_VICTIM"
	victimControlPlane = "SANFRAN_TEST_VICTIM_CONTROL_PLANE"
	victimBPF          = "SANFRAN_TEST_VICTIM_BPF"
	// victimGroup, if set, is the control group that it is a pod's process in;
	// victimHealth is then where it serves /healthz.
	victimGroup  = "SANFRAN_TEST_VICTIM_GROUP"
	victimHealth = "SANFRAN_TEST_VICTIM_HEALTH"
	// victimShort, if set, makes it go through its life quickly.
	victimShort       = "SANFRAN_TEST_VICTIM_SHORT"
	victimSupervision = "SANFRAN_TEST_VICTIM_SUPERVISION" // supervisor, or supervised
)

func superviseVictim() int {
	if err := os.Setenv(victimSupervision, "supervised"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code, err := supervisor.Run(supervisor.Config{
		Path: "/proc/self/exe", Args: os.Args,
		Soon: time.Millisecond, // a test kills it when it likes
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

func runVictim(dir string) (err error) {
	bpffs = os.Getenv(victimBPF)
	ctx, cancel := process.WithSignals(context.Background())
	defer cancel()
	cfg := nodeConfig(dir)
	if os.Getenv(victimSupervision) == "supervised" {
		if cfg.Supervisor, err = supervisor.Open(supervisor.FD); err != nil {
			return err
		}
	}
	conn, err := grpc.NewClient(os.Getenv(victimControlPlane), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	group := os.Getenv(victimGroup)
	cfg.Log = slog.Default()
	if group != "" {
		if err := enterPodGroup(group); err != nil {
			return err
		}
		cfg.CgroupBase = ""
	}
	if os.Getenv(victimShort) != "" {
		shortLived(&cfg)
	}
	if deaths := os.Getenv(victimDeaths); deaths != "" {
		if err := armDeaths(deaths, cfg); err != nil {
			return err
		}
	}
	a, err := New(cfg, conn)
	if err != nil {
		return err
	}
	if group != "" {
		health, err := net.Listen("tcp", os.Getenv(victimHealth))
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(health, a.Handler()) }()
	}
	return a.Run(ctx)
}

// world is the file of a network namespace beyond the node, joined to it.
var world string

// bpffs is where that copy mounts a BPF filesystem.
var bpffs string

func TestMain(m *testing.M) {
	containertest.RunStandIn()
	testnode.Enter()
	if dir := os.Getenv(victimDir); dir != "" {
		if os.Getenv(victimSupervision) == "supervisor" {
			os.Exit(superviseVictim())
		}
		if err := runVictim(dir); err != nil {
			fmt.Fprintln(os.Stderr, "the agent to be killed ended:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := prepareNode(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := errors.Join(unix.Unmount(bpffs, unix.MNT_DETACH), unix.Unmount(world, unix.MNT_DETACH), os.RemoveAll(filepath.Dir(world))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

func prepareNode() error {
	dir, err := os.MkdirTemp("", "sanfran-agent-node-")
	if err != nil {
		return err
	}
	world, bpffs = filepath.Join(dir, "world"), filepath.Join(dir, "bpf")
	if err := errors.Join(os.WriteFile(world, nil, 0o600), os.Mkdir(bpffs, 0o700)); err != nil {
		return err
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF filesystem: %w", err)
	}
	node, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return err
	}
	defer node.Close()
	// The world's thread makes the pair and puts one end into the node.
	if err := onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", world, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "node"
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "uplink", PeerNamespace: netlink.NsFd(int(node.Fd()))}); err != nil {
			return err
		}
		if err := up("node", "192.0.2.1/24", "2001:db8::1/64"); err != nil {
			return err
		}
		// As a cluster's network leads function pods' addresses to a node.
		return errors.Join(netlink.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: net.IPv4(10, 245, 0, 0), Mask: net.CIDRMask(16, 32)}, Gw: net.ParseIP(nodeIP),
		}), netlink.RouteAdd(&netlink.Route{
			Dst: &net.IPNet{IP: net.ParseIP("fd10:245::"), Mask: net.CIDRMask(64, 128)}, Gw: net.ParseIP(nodeIP6),
		}))
	}); err != nil {
		return err
	}
	return errors.Join(up("lo"), up("uplink", nodeIP+"/24", nodeIP6+"/64"), testnode.HideUnified())
}

func up(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, address := range addresses {
		addr, err := netlink.ParseAddr(address)
		if err != nil {
			return err
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(link, addr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return netlink.LinkSetUp(link)
}

// onOwnThread runs do on a thread that ends with it.
func onOwnThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked
		done <- do()
	}()
	return <-done
}

// dialWorld connects from beyond the node.
func dialWorld(_ context.Context, _, address string) (conn net.Conn, err error) {
	err = onOwnThread(func() error {
		file, err := os.Open(world)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		// By hand: package net may connect on another thread.
		family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())})
		if to.Addr().Is4() {
			family, name = unix.AF_INET, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
		}
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		socket := os.NewFile(uintptr(fd), address)
		defer socket.Close()
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: 5}); err != nil {
			return err
		}
		if err := unix.Connect(fd, name); err != nil {
			return fmt.Errorf("connect to %s from beyond the node: %w", address, err)
		}
		conn, err = net.FileConn(socket)
		return err
	})
	return conn, err
}

// drop forgets the bundles of a pod.
func (cp *fakeControlPlane) drop(a *agentv1.Assignment) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	for _, m := range a.GetMounts() {
		delete(cp.bundles, m.GetBundle())
	}
}
