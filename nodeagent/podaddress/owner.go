package podaddress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
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

// Way is how connections are led to sockets.
type Way string

const (
	// SkLookup is a BPF program of the type sk_lookup (Linux 5.9 and later).
	SkLookup Way = "sk_lookup"
	// TProxy is a table of nftables rules with tproxy (Linux 4.19 and later).
	TProxy Way = "tproxy"
	// Auto is SkLookup where the kernel has it, else TProxy.
	Auto Way = "auto"
)

// Config says which addresses to own, and who answers by default.
type Config struct {
	// CIDRs are the ranges of function pods' addresses, one of a family or one
	// of each.
	CIDRs []netip.Prefix
	// Way is Auto if empty.
	Way Way
	// PinDir is this virtual node's own folder on a bpffs, for example
	// /sys/fs/bpf/sanfran/sanfran. It is created; the bpffs must be mounted.
	// TProxy needs none.
	PinDir string
	// Listener is the agent's own listener: it gets the connections to every
	// assigned address without a container here. A *net.TCPListener that is not
	// multipath TCP, or an *os.File of one, which must be of both families (see
	// socket.Listen) if a range is IPv6. Open does not keep it; it must stay open
	// as long as the agent runs.
	Listener syscall.Conn
	// Sources are the addresses that the node's own processes call function pods
	// from, at most one of each family, which must be this node's. Without one the
	// kernel uses the called address itself. If the address leaves the node,
	// the kernel removes the route with it.
	Sources []netip.Addr
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

func (c Config) validate() error {
	if len(c.CIDRs) == 0 || len(c.CIDRs) == 2 && c.CIDRs[0].Addr().Is4() == c.CIDRs[1].Addr().Is4() || len(c.CIDRs) > 2 {
		return fmt.Errorf("function pods' ranges %v: give one, or one of IPv4 and one of IPv6", c.CIDRs)
	}
	for _, cidr := range c.CIDRs {
		if !cidr.IsValid() || cidr.Addr().Is4In6() || cidr.Bits() == 0 {
			return fmt.Errorf("function pods' range %v: give a CIDR such as 10.245.0.0/16", cidr)
		}
		if cidr != cidr.Masked() {
			return fmt.Errorf("function pods' range %v has host bits set; did you mean %v?", cidr, cidr.Masked())
		}
	}
	switch c.Way {
	case SkLookup, Auto:
		if c.PinDir == "" {
			return errors.New("no folder to pin to: give a folder of this node's own under /sys/fs/bpf")
		}
	case TProxy:
	default:
		return fmt.Errorf("way %q to lead connections to function pods: give %s, %s or %s", c.Way, SkLookup, TProxy, Auto)
	}
	if len(c.Sources) > 2 || len(c.Sources) == 2 && c.Sources[0].Is4() == c.Sources[1].Is4() {
		return fmt.Errorf("source addresses %v: give at most one of each family", c.Sources)
	}
	for _, source := range c.Sources {
		if !source.IsValid() || source.Is4In6() || contains(c.CIDRs, source) {
			return fmt.Errorf("source address %v: give an address of this node outside %v", source, c.CIDRs)
		}
	}
	if c.Listener == nil {
		return errors.New("no agent's listener given")
	}
	return nil
}

func contains(cidrs []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(cidrs, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// hasIPv6 says whether the agent's listener must be of both families.
func (c Config) hasIPv6() bool {
	return slices.ContainsFunc(c.CIDRs, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// source is the source address of a range's family, or invalid.
func (c Config) source(cidr netip.Prefix) netip.Addr {
	for _, source := range c.Sources {
		if source.Is4() == cidr.Addr().Is4() {
			return source
		}
	}
	return netip.Addr{}
}

// leader is the part of a Way in the kernel. Its methods are not called
// concurrently; addresses are in range. What it leads where outlives the process.
type leader interface {
	// assign leads an address to the agent's listener.
	assign(addr netip.Addr) error
	// direct leads an address to listening sockets, one at least; ErrNotAssigned if
	// it is not assigned. The kernel's word for a socket that cannot be is wrapped.
	direct(addr netip.Addr, fds []int) error
	// park leads to the agent's listener again.
	park(addr netip.Addr) error
	remove(addr netip.Addr) error
	assigned() ([]netip.Addr, error)
	// mend puts back what somebody has taken away, and says what.
	mend() (mended []string, err error)
	close() error
	uninstall() error
}

// Owner owns the function pods' addresses on this node. Its methods may be
// called from several goroutines. They act on the network namespace in which
// Open ran, from any thread.
//
// Every change is one atomic update in the kernel, in effect for the next
// connection when the method returns.
type Owner struct {
	config Config

	mu     sync.Mutex // orders changes that touch more than one map
	leader leader
}

// Open takes the ranges over: it checks that nothing else on the node uses them,
// has connections led, or replaces what an earlier run had for that without a
// moment in between, leads the default to config.Listener, and adds the routes.
// What an earlier run had assigned or directed stays (see Assigned), unless the
// range, or the way, changed. There can be one Owner in a network namespace: routes
// of other ranges are removed. It needs CAP_NET_ADMIN, and for SkLookup CAP_BPF (or
// root).
func Open(ctx context.Context, config Config) (_ *Owner, err error) {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if config.Way == "" {
		config.Way = Auto
	}
	if err := config.validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("own function pods' addresses %v: %w", config.CIDRs, err)
	}
	for _, cidr := range config.CIDRs {
		if err := preflight(cidr); err != nil {
			return nil, err
		}
	}
	if config.Way, err = config.Way.choose(); err != nil {
		return nil, err
	}
	// Routes of other ranges, left from before they were changed, go before what
	// protects them is replaced.
	if err := removeRoutes(config.CIDRs); err != nil {
		return nil, err
	}
	o := &Owner{config: config}
	if config.Way == TProxy {
		o.leader, err = openTProxy(config)
	} else {
		o.leader, err = openSkLookup(config)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.leader.close())
		}
	}()
	if err := o.removeForeign(); err != nil {
		return nil, err
	}
	if _, err := o.ensureRoutes(); err != nil {
		return nil, err
	}
	config.Logger.InfoContext(ctx, "function pods' addresses are owned", "cidrs", config.CIDRs, "way", config.Way)
	return o, nil
}

// choose makes Auto one of the others.
func (w Way) choose() (Way, error) {
	if w != Auto {
		return w, nil
	}
	switch err := features.HaveProgramType(ebpf.SkLookup); {
	case err == nil:
		return SkLookup, nil
	case errors.Is(err, ebpf.ErrNotSupported):
		return TProxy, nil
	default:
		return "", fmt.Errorf("find out whether the kernel has BPF sk_lookup (needs CAP_BPF or root; %s needs neither): %w", TProxy, err)
	}
}

// Way is how connections are led, never Auto.
func (o *Owner) Way() Way { return o.config.Way }

// removeForeign takes addresses out that an earlier run assigned in another range.
func (o *Owner) removeForeign() error {
	addrs, err := o.leader.assigned()
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if contains(o.config.CIDRs, addr) {
			continue
		}
		if err := o.leader.remove(addr); err != nil {
			return fmt.Errorf("forget %v of an earlier range: %w", addr, err)
		}
	}
	return nil
}

// Reconcile puts back what somebody else has taken away on the node, such as a
// route or the rules, and says what that was; nothing if all is there.
func (o *Owner) Reconcile(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("reconcile function pods' addresses %v: %w", o.config.CIDRs, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	// Before the routes, which must not be there without it.
	mended, err := o.leader.mend()
	if err != nil {
		return mended, fmt.Errorf("reconcile function pods' addresses %v: %w", o.config.CIDRs, err)
	}
	routes, err := o.ensureRoutes()
	return append(mended, routes...), err
}

// Assign makes the address one of a function pod, wherever its containers run.
// Connections to it reach the agent's listener. If the address was directed to a
// socket, it no longer is.
func (o *Owner) Assign(addr netip.Addr) error {
	return o.change("assign", addr, func() error { return o.leader.assign(addr) })
}

// Direct leads connections to an assigned address, on every port, to listener: a
// container's own listening socket. The Owner does not keep listener. When the
// last duplicate of the socket is closed, connections reach the agent again; a
// duplicate that nobody accepts on keeps them waiting, so Park first.
func (o *Owner) Direct(addr netip.Addr, listener syscall.Conn) error {
	return o.Spread(addr, listener)
}

// MaxListeners is how many listening sockets an address can be led to.
const MaxListeners = 8

// Spread is Direct to several containers' sockets, which share the connections by
// their clients' ports. Those of a socket that is closed reach the agent.
func (o *Owner) Spread(addr netip.Addr, listeners ...syscall.Conn) error {
	if len(listeners) == 0 || len(listeners) > MaxListeners {
		return fmt.Errorf("direct %v to %d sockets: give 1 to %d", addr, len(listeners), MaxListeners)
	}
	return o.change("direct", addr, func() error {
		return withListeners(listeners, addr.Is6(), func(fds []int) error { return o.leader.direct(addr, fds) })
	})
}

// Park leads new connections to an assigned address to the agent's listener
// again. It is idempotent. Connections waiting in the container's backlog stay
// with the container.
func (o *Owner) Park(addr netip.Addr) error {
	return o.change("park", addr, func() error { return o.leader.park(addr) })
}

// Remove makes the address nobody's: connections to it are dropped. It is
// idempotent.
func (o *Owner) Remove(addr netip.Addr) error {
	return o.change("remove", addr, func() error { return o.leader.remove(addr) })
}

func (o *Owner) change(verb string, addr netip.Addr, do func() error) error {
	if !contains(o.config.CIDRs, addr) {
		return fmt.Errorf("%s %v: %w %v", verb, addr, ErrOutside, o.config.CIDRs)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := do(); err != nil {
		return fmt.Errorf("%s %v: %w", verb, addr, err)
	}
	return nil
}

// Assigned lists the assigned addresses, those of an earlier run included, in no
// order. After a restart the caller removes what no longer is a pod.
func (o *Owner) Assigned() ([]netip.Addr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.leader.assigned()
}

// Close gives up this process's handles. What leads connections, and the routes,
// stay and keep failing closed: assigned addresses go on answering as long as the
// sockets they lead to are open anywhere, and a later Open takes over.
func (o *Owner) Close() error { return o.leader.close() }

// Uninstall takes everything away, first the routes, then what leads connections,
// and closes the Owner. Function pods' addresses then no longer lead to this node.
func (o *Owner) Uninstall(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return errors.Join(fmt.Errorf("give up function pods' addresses %v: %w", o.config.CIDRs, err), o.Close())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := removeRoutes(nil); err != nil {
		return errors.Join(err, o.Close())
	}
	return errors.Join(o.leader.uninstall(), o.leader.close())
}
