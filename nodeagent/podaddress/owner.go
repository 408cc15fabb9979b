package podaddress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// MaxAddresses is how many function pods' addresses may be assigned at once.
const MaxAddresses = 65536

var (
	// ErrNotAssigned is in the chain of an error about an address that must be
	// assigned first.
	ErrNotAssigned = errors.New("address is not assigned")
	// ErrOutside is in the chain of an error about an address outside the CIDR.
	ErrOutside = errors.New("address is outside the range of function pods")
	// ErrNotListener is in the chain of an error about a socket that cannot be
	// led connections to.
	ErrNotListener = errors.New("not a listening plain TCP socket")
)

// Config says which addresses to own, and who answers by default.
type Config struct {
	// CIDR is the range of function pods' addresses, IPv4.
	CIDR netip.Prefix
	// PinDir is this virtual node's own folder on a bpffs, for example
	// /sys/fs/bpf/sanfran/sanfran. It is created; the bpffs must be mounted.
	PinDir string
	// Listener is the agent's own listener: it gets the connections to every
	// assigned address without a container here. A *net.TCPListener (opened
	// with ListenConfig.SetMultipathTCP(false)) or an *os.File of one. Open
	// does not keep it; it must stay open as long as the agent runs.
	Listener syscall.Conn
	// Source, if valid, is the address that the node's own processes call
	// function pods from, which must be one of this node's. Without it the
	// kernel uses the called address itself. If the address leaves the node,
	// the kernel removes the route with it.
	Source netip.Addr
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

func (c Config) validate() error {
	if !c.CIDR.IsValid() || !c.CIDR.Addr().Is4() || c.CIDR.Bits() == 0 {
		return fmt.Errorf("function pods' range %v: give an IPv4 CIDR such as 10.245.0.0/16", c.CIDR)
	}
	if c.CIDR != c.CIDR.Masked() {
		return fmt.Errorf("function pods' range %v has host bits set; did you mean %v?", c.CIDR, c.CIDR.Masked())
	}
	if c.PinDir == "" {
		return errors.New("no folder to pin to: give a folder of this node's own under /sys/fs/bpf")
	}
	if c.Source.IsValid() && (!c.Source.Is4() || c.CIDR.Contains(c.Source)) {
		return fmt.Errorf("source address %v: give an IPv4 address of this node outside %v", c.Source, c.CIDR)
	}
	if c.Listener == nil {
		return errors.New("no agent's listener given")
	}
	return nil
}

// Owner owns the function pods' addresses on this node. Its methods may be
// called from several goroutines. They act on the network namespace in which
// Open ran, from any thread.
//
// Every change is one atomic update of a map in the kernel, in effect for the
// next connection when the method returns.
type Owner struct {
	cidr   netip.Prefix
	pinDir string
	kernel *kernel

	mu sync.Mutex // orders changes that touch both maps
}

// Open takes the CIDR over: it checks that nothing else on the node uses it,
// attaches the program, or replaces that of an earlier run without a moment in
// between, leads the default to config.Listener, and adds the route. What an
// earlier run had assigned or directed stays (see Assigned), unless the CIDR
// changed. There can be one Owner in a network namespace: routes of another range
// are removed. It needs CAP_NET_ADMIN and CAP_BPF (or root).
func Open(ctx context.Context, config Config) (*Owner, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	return open(ctx, config)
}

// Assign makes the address one of a function pod, wherever its containers run.
// Connections to it reach the agent's listener. If the address was directed to a
// socket, it no longer is.
func (o *Owner) Assign(addr netip.Addr) error {
	if err := o.check("assign", addr); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// In this order a socket left by the address's last owner never answers.
	if err := o.undirect(addr); err != nil {
		return fmt.Errorf("assign %v: %w", addr, err)
	}
	if err := o.kernel.assigned.Put(keyOf(addr), oneBucket); err != nil {
		if errors.Is(err, unix.E2BIG) {
			return fmt.Errorf("assign %v: %d addresses are assigned already, the most there can be: %w", addr, MaxAddresses, err)
		}
		return fmt.Errorf("assign %v: %w", addr, err)
	}
	return nil
}

// Direct leads connections to an assigned address, on every port, to listener: a
// container's own listening socket. The Owner does not keep listener. When the
// last duplicate of the socket is closed, connections reach the agent again; a
// duplicate that nobody accepts on keeps them waiting, so Park first.
func (o *Owner) Direct(addr netip.Addr, listener syscall.Conn) error {
	if err := o.check("direct", addr); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	var buckets uint32
	if err := o.kernel.assigned.Lookup(keyOf(addr), &buckets); err != nil {
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			err = ErrNotAssigned
		}
		return fmt.Errorf("direct %v to a container's socket: %w", addr, err)
	}
	if err := putSocket(o.kernel.sockets, keyOf(addr), listener); err != nil {
		return fmt.Errorf("direct %v to a container's socket: %w", addr, err)
	}
	return nil
}

// Park leads new connections to an assigned address to the agent's listener
// again. It is idempotent. Connections waiting in the container's backlog stay
// with the container.
func (o *Owner) Park(addr netip.Addr) error {
	if err := o.check("park", addr); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.undirect(addr); err != nil {
		return fmt.Errorf("park %v: %w", addr, err)
	}
	return nil
}

// Remove makes the address nobody's: connections to it are dropped. It is
// idempotent.
func (o *Owner) Remove(addr netip.Addr) error {
	if err := o.check("remove", addr); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.kernel.assigned.Delete(keyOf(addr)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("remove %v: %w", addr, err)
	}
	if err := o.undirect(addr); err != nil {
		return fmt.Errorf("remove %v: %w", addr, err)
	}
	return nil
}

// Assigned lists the assigned addresses, those of an earlier run included, in no
// order. After a restart the caller removes what no longer is a pod.
func (o *Owner) Assigned() ([]netip.Addr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var (
		addrs   []netip.Addr
		key     key
		buckets uint32
	)
	entries := o.kernel.assigned.Iterate()
	for entries.Next(&key, &buckets) {
		addrs = append(addrs, key.addr())
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list assigned addresses: %w", err)
	}
	return addrs, nil
}

// Close gives up this process's handles. Program, maps and route stay and keep
// failing closed: assigned addresses go on answering as long as the sockets they
// lead to are open anywhere, and a later Open takes over.
func (o *Owner) Close() error { return o.kernel.close() }

// Uninstall takes everything away, first the route, then the program, and closes
// the Owner. Function pods' addresses then no longer lead to this node.
func (o *Owner) Uninstall(ctx context.Context) error {
	return errors.Join(uninstall(ctx, o.cidr, o.pinDir, o.kernel), o.Close())
}

func (o *Owner) check(verb string, addr netip.Addr) error {
	if !o.cidr.Contains(addr) {
		return fmt.Errorf("%s %v: %w %v", verb, addr, ErrOutside, o.cidr)
	}
	return nil
}

func (o *Owner) undirect(addr netip.Addr) error {
	if err := o.kernel.sockets.Delete(keyOf(addr)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("take the container's socket away: %w", err)
	}
	return nil
}

// putSocket stores a listening socket in a SOCKHASH.
func putSocket(sockets *ebpf.Map, k key, listener syscall.Conn) error {
	raw, err := listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	var putErr error
	// Control rather than Fd, which may switch a file to blocking mode.
	err = raw.Control(func(fd uintptr) {
		if putErr = checkListener(int(fd)); putErr == nil {
			putErr = sockets.Put(k, uint64(fd))
		}
	})
	return errors.Join(err, putErr)
}

// checkListener says what is wrong with a socket that the kernel would refuse,
// or take and never use.
func checkListener(fd int) error {
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotListener, os.NewSyscallError("getsockopt", err))
	}
	if protocol != unix.IPPROTO_TCP {
		return fmt.Errorf("%w: its protocol is %d; open it with ListenConfig.SetMultipathTCP(false)", ErrNotListener, protocol)
	}
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotListener, os.NewSyscallError("getsockopt", err))
	}
	if listening == 0 {
		return fmt.Errorf("%w: it does not listen", ErrNotListener)
	}
	return nil
}
