package socket

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/nftable"
)

// DefaultMark is the bit of SO_MARK that says "a container's socket". The marks
// of others leave it alone: kube-proxy uses 0x4000 and the kubelet 0x8000, the
// portmap CNI plugin 0x2000, Cilium 0x0fff and the upper sixteen bits, Calico
// the upper sixteen bits, the AWS VPC plugin 0x80.
const DefaultMark uint32 = 0x1000

// DefaultBacklog is how many connections wait in a socket's queue while its
// container does not accept. The kernel lowers it to net.core.somaxconn.
const DefaultBacklog = 4096

// ErrNoPort is in the chain of an error that says every port is held.
var ErrNoPort = errors.New("no free port")

// Config says where containers' sockets listen.
type Config struct {
	// NodeIP is the node's address that sockets are bound to. Required: a
	// wildcard would answer on addresses that are not ours to answer on.
	NodeIP netip.Addr
	// Ports to give out; DefaultPorts if zero.
	Ports Ports
	// NodePorts is the cluster's NodePort range, which Ports must not touch;
	// DefaultNodePorts if zero.
	NodePorts Ports
	// FunctionCIDRs are the ranges of function pods' addresses, at which these
	// sockets answer as well (see package podaddress). If one is IPv6, sockets
	// are of both families.
	FunctionCIDRs []netip.Prefix
	// Mark is one bit, DefaultMark if zero.
	Mark uint32
	// Backlog is DefaultBacklog if zero.
	Backlog int
}

func (c Config) withDefaults() Config {
	if c.Ports == (Ports{}) {
		c.Ports = DefaultPorts
	}
	if c.NodePorts == (Ports{}) {
		c.NodePorts = DefaultNodePorts
	}
	if c.Mark == 0 {
		c.Mark = DefaultMark
	}
	if c.Backlog == 0 {
		c.Backlog = DefaultBacklog
	}
	return c
}

// bothFamilies says whether sockets shall answer IPv6 beside IPv4.
func (c Config) bothFamilies() bool {
	return slices.ContainsFunc(c.FunctionCIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

func (c Config) validate() error {
	if !c.NodeIP.IsValid() || c.NodeIP.IsUnspecified() || c.NodeIP.Is4In6() || c.NodeIP.Zone() != "" {
		return fmt.Errorf("node address %v: the address containers' sockets listen on must be one address of this node", c.NodeIP)
	}
	if c.Mark&(c.Mark-1) != 0 {
		return fmt.Errorf("socket mark %#x: give exactly one bit", c.Mark)
	}
	return nil
}

// Range opens listening sockets on the ports of one node. All methods may be
// called from several goroutines.
type Range struct {
	config    Config
	installed *nftable.Watched

	mu   sync.Mutex
	free []uint16 // least recently used first
}

// NewRange checks the configuration against this node, installs the rules that
// confine marked sockets (Rules), and only then returns a Range. It needs
// CAP_NET_ADMIN.
func NewRange(ctx context.Context, config Config) (*Range, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	ephemeral, err := readEphemeral()
	if err != nil {
		return nil, err
	}
	if err := config.Ports.check(ephemeral, config.NodePorts); err != nil {
		return nil, err
	}
	r := newRange(config)
	if err := r.rules().Install(ctx); err != nil {
		return nil, err
	}
	if r.installed, err = nftable.Watch(TableName, chains...); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Range) rules() Rules {
	return Rules{Mark: r.config.Mark, NodeIP: r.config.NodeIP, Ports: r.config.Ports, FunctionCIDRs: r.config.FunctionCIDRs}
}

// Reconcile puts the rules back if somebody else has taken them away, and says so;
// it says nothing if they are there.
func (r *Range) Reconcile(ctx context.Context) ([]string, error) {
	intact, err := r.installed.Intact()
	if err != nil || intact {
		return nil, err
	}
	if err := r.rules().Install(ctx); err != nil {
		return nil, err
	}
	return []string{"nftables table inet " + TableName}, r.installed.Installed()
}

func newRange(config Config) *Range {
	r := &Range{config: config, free: make([]uint16, 0, config.Ports.Size())}
	for port := int(config.Ports.First); port <= int(config.Ports.Last); port++ {
		r.free = append(r.free, uint16(port))
	}
	return r
}

// Open gives a listening socket on the port that has been free the longest. A
// port that a stranger occupies is passed over. The error wraps ErrNoPort when
// no port is left.
func (r *Range) Open(ctx context.Context) (*Listening, error) {
	for range r.config.Ports.Size() {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("open a container's socket: %w", err)
		}
		port, ok := r.take()
		if !ok {
			break
		}
		addr := netip.AddrPortFrom(r.config.NodeIP, port)
		file, err := listen(addr, r.config.bothFamilies(), r.config.Mark, r.config.Backlog)
		if err == nil {
			return &Listening{file: file, addr: addr, owner: r}, nil
		}
		r.put(port)
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, err
		}
	}
	return nil, fmt.Errorf("ports %v of %v are all in use: %w; a wider range fits more containers", r.config.Ports, r.config.NodeIP, ErrNoPort)
}

// take removes the port that has been free the longest.
func (r *Range) take() (uint16, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.free) == 0 {
		return 0, false
	}
	port := r.free[0]
	r.free = r.free[1:]
	return port, true
}

// put makes a port the last to be given again.
func (r *Range) put(port uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.free = append(r.free, port)
}

// Listening is one listening socket of the node, meant for one container. The
// caller owns it and must Release it.
type Listening struct {
	file  *os.File
	addr  netip.AddrPort
	owner *Range

	mu       sync.Mutex
	closed   bool
	released bool
}

// File is the socket. It stays the Listening's: do not close it. Starting a
// process with it (os/exec's ExtraFiles) duplicates it.
//
// It is in non-blocking mode, is not known to Go's poller, and Fd leaves its
// mode alone: the mode belongs to the socket that agent and container share, and
// a switch to blocking would stop the container's event loop in accept. A file
// from net.TCPListener.File would do just that. To accept on it here, use
// net.FileListener.
func (l *Listening) File() *os.File { return l.file }

// Addr is the node's address and the port the socket listens on.
func (l *Listening) Addr() netip.AddrPort { return l.addr }

// Close ends listening, for all duplicates of the socket: the kernel answers
// connections with a reset from now on. The port stays this socket's until
// Release, so that code in a container, which may disconnect a socket it has
// accepted and bind it anew, cannot take it over while a route may still lead
// here. It is idempotent.
func (l *Listening) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	fd := int(l.file.Fd())
	// A container may have shut it down before: not connected, says the kernel.
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("end listening on %v: %w", l.addr, err)
	}
	// Otherwise others who allow it could share a port that nobody listens on.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 0); err != nil {
		return fmt.Errorf("keep the port of %v: %w", l.addr, err)
	}
	return nil
}

// Release closes the socket and lets the port be given again, after every other
// free one. Call it when nothing routes to the port any more. It is idempotent.
func (l *Listening) Release() error {
	err := l.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.released {
		l.released = true
		if closeErr := l.file.Close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("close socket on %v: %w", l.addr, closeErr))
		}
		l.owner.put(l.addr.Port())
	}
	return err
}

// listen opens a marked TCP socket on addr. The calls are made by hand because
// package net would register the socket with this process's poller, and every
// connection to the container would then wake the agent.
func listen(addr netip.AddrPort, bothFamilies bool, mark uint32, backlog int) (file *os.File, err error) {
	// The mark comes first: no moment of the socket's life is without it.
	fd, err := openSocket(addr, bothFamilies, backlog, func(fd int) error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)); err != nil {
			return fmt.Errorf("mark socket for %v with %#x (needs CAP_NET_ADMIN): %w", addr, mark, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// The file is made while the socket still blocks, so the poller never sees
	// it and Fd never changes its mode.
	file = os.NewFile(uintptr(fd), "tcp "+addr.String())
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(fmt.Errorf("non-blocking mode for %v: %w", addr, err), file.Close())
	}
	return file, nil
}
