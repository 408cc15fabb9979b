package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/vishvananda/netlink"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/nftable"
)

// Defaults of Config.
const (
	DefaultBridge = "sanfran0"
	// DefaultCIDR is the same on every node: these addresses never leave it.
	DefaultCIDR = "10.246.0.0/16"
	// DefaultConnections and DefaultNewConnections leave a node's connection
	// tracker, of some 262,144 entries, to several who use up theirs: one that is
	// over stays there for two minutes.
	DefaultConnections    = 4096
	DefaultNewConnections = 250
)

// DefaultDenied are addresses under which clouds offer credentials of the machine
// to whoever asks: link-local (AWS, Google, Azure, Oracle, OpenStack), Alibaba,
// Azure's host agent.
var DefaultDenied = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("168.63.129.16/32"),
	netip.MustParsePrefix("fd00:ec2::/32"),       // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),    // Google
	netip.MustParsePrefix("fd00:c1::a9fe:0/112"), // Oracle
}

// DefaultDeniedPorts are the kubelet's ports and those of the agent.
var DefaultDeniedPorts = []uint16{10250, 10255, 7070, 7071, 7072}

// Config says how containers are connected.
type Config struct {
	// Dir is the folder where namespaces are kept, a file for each. It is
	// created; nothing else may be in it.
	Dir string
	// Bridge is the bridge's name, DefaultBridge if empty.
	Bridge string
	// CIDR is the range of containers' addresses, DefaultCIDR if zero. The
	// first address of it is the bridge's.
	CIDR netip.Prefix
	// CIDR6 is the range of containers' IPv6 addresses, unique local ones (RFC
	// 4193) between a /64 and a /96 in size: they never leave the node either. The first
	// after its network's own is the bridge's. Zero: containers have no IPv6, nor
	// have they any on a node that has none itself.
	CIDR6 netip.Prefix
	// FunctionCIDRs are function pods' addresses, which containers may call.
	FunctionCIDRs []netip.Prefix
	// DNS are name servers that containers may ask on port 53 even at an address
	// that is denied or the node's own (a name server cached on the node).
	DNS []netip.Addr
	// Denied are addresses that containers must not reach; DefaultDenied if nil.
	Denied []netip.Prefix
	// DeniedPorts are TCP ports that containers must not reach anywhere but at
	// function pods' addresses; DefaultDeniedPorts if nil.
	DeniedPorts []uint16
	// Connections is how many connections a container may have open at a time, of
	// its own making; NewConnections how many it may begin in a second in the long
	// run, and four times as many at once. UDP counts, too: a question to a name
	// server is one. What is beyond is dropped, so that TCP tries again. 0 for
	// DefaultConnections and DefaultNewConnections.
	Connections, NewConnections uint32
	// MTU of containers' interfaces; if zero, that of the interface of the
	// node's default route, or 1500 without one.
	MTU int
	// Logger is slog.Default() if nil.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Bridge == "" {
		c.Bridge = DefaultBridge
	}
	if c.CIDR == (netip.Prefix{}) {
		c.CIDR = netip.MustParsePrefix(DefaultCIDR)
	}
	if c.Denied == nil {
		c.Denied = DefaultDenied
	}
	if c.DeniedPorts == nil {
		c.DeniedPorts = DefaultDeniedPorts
	}
	if c.Connections == 0 {
		c.Connections = DefaultConnections
	}
	if c.NewConnections == 0 {
		c.NewConnections = DefaultNewConnections
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// interfaceName is what the kernel takes, less than 16 bytes, without what nft or
// sysctl paths would read differently.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,14}$`)

func (c Config) validate() error {
	if c.Dir == "" || !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("folder of network namespaces %q: give an absolute path", c.Dir)
	}
	if !interfaceName.MatchString(c.Bridge) {
		return fmt.Errorf("bridge name %q: give 1 to 15 letters, digits, - or _", c.Bridge)
	}
	if !c.CIDR.Addr().Is4() || c.CIDR.Bits() > 30 || c.CIDR.Bits() < 8 || c.CIDR != c.CIDR.Masked() {
		return fmt.Errorf("containers' range %v: give an IPv4 CIDR between /8 and /30 without host bits, such as %s", c.CIDR, DefaultCIDR)
	}
	if c.CIDR6.IsValid() && (!c.CIDR6.Addr().Is6() || c.CIDR6.Addr().Is4In6() || c.CIDR6.Bits() < 64 || c.CIDR6.Bits() > 96 || c.CIDR6 != c.CIDR6.Masked()) {
		return fmt.Errorf("containers' IPv6 range %v: give a CIDR between /64 and /96 without host bits, such as fd53:616e:4672:616e::/64", c.CIDR6)
	}
	for _, prefix := range append(append([]netip.Prefix(nil), c.FunctionCIDRs...), c.Denied...) {
		if !prefix.IsValid() || prefix.Addr().Is4In6() {
			return fmt.Errorf("range %v in the rules for containers is none", prefix)
		}
	}
	for _, cidr := range c.FunctionCIDRs {
		for _, own := range c.cidrs() {
			if cidr.Overlaps(own) {
				return fmt.Errorf("containers' range %v overlaps with function pods' range %v; choose another", own, cidr)
			}
		}
	}
	for _, addr := range c.DNS {
		if !addr.IsValid() || addr.Is4In6() {
			return fmt.Errorf("name server %v in the rules for containers is no address", addr)
		}
	}
	return nil
}

// cidrs are containers' ranges.
func (c Config) cidrs() []netip.Prefix {
	if c.CIDR6.IsValid() {
		return []netip.Prefix{c.CIDR, c.CIDR6}
	}
	return []netip.Prefix{c.CIDR}
}

// Network makes and removes the network namespaces of one node's containers. Its
// methods may be called from several goroutines.
type Network struct {
	config  Config
	gateway netip.Addr
	host    *os.File // the node's network namespace
	links   *netlink.Handle
	addrs   *addresses
	rules   *nftable.Watched

	mu   sync.Mutex
	open map[string]*Namespace
}

// Open sets up what all containers share: the bridge, forwarding, and the rules,
// which stand before the bridge does. What an earlier run left is taken over; call
// Sweep next. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN.
func Open(ctx context.Context, config Config) (_ *Network, err error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder of network namespaces: %w", err)
	}
	if config.CIDR6.IsValid() {
		has, err := nodeHasIPv6()
		if err != nil {
			return nil, err
		}
		if !has {
			config.Logger.WarnContext(ctx, "containers get no IPv6: the node has no global IPv6 address", "cidr", config.CIDR6)
			config.CIDR6 = netip.Prefix{}
		}
	}
	if err := preflight(config); err != nil {
		return nil, err
	}
	n := &Network{
		config:  config,
		gateway: config.CIDR.Addr().Next(),
		open:    map[string]*Namespace{},
	}
	n.addrs = newAddresses(config.CIDR, n.gateway)
	if n.host, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return nil, fmt.Errorf("node's network namespace: %w", err)
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	if n.links, err = netlink.NewHandle(); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	if err := failpoint.After("network: rules installed", installRules(config)); err != nil {
		return nil, err
	}
	if n.rules, err = nftable.Watch(TableName, chains...); err != nil {
		return nil, err
	}
	if n.config.MTU == 0 {
		if n.config.MTU, err = n.defaultMTU(); err != nil {
			return nil, err
		}
	}
	if err := failpoint.After("network: bridge made", n.ensureBridge()); err != nil {
		return nil, err
	}
	if err := writeSysctl("net/ipv4/ip_forward", "1"); err != nil {
		return nil, err
	}
	if config.CIDR6.IsValid() {
		if err := forwardIPv6(); err != nil {
			return nil, err
		}
	}
	for _, chain := range forwardDrops() {
		config.Logger.WarnContext(ctx, "another table drops what it does not know on its way through the node; containers may have no egress until it accepts what comes from the bridge, and replies to it",
			"chain", chain, "bridge", config.Bridge)
	}
	config.Logger.InfoContext(ctx, "containers' network is up", "bridge", config.Bridge, "cidrs", config.cidrs(), "mtu", n.config.MTU)
	return n, nil
}

// Reconcile puts back what somebody else has taken away of what all containers
// share, and says what that was; nothing if all is there. What a container's own
// namespace has nobody else changes.
func (n *Network) Reconcile(ctx context.Context) (mended []string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("reconcile containers' network: %w", err)
	}
	intact, err := n.rules.Intact()
	if err != nil {
		return nil, err
	}
	if !intact {
		if err := errors.Join(installRules(n.config), n.rules.Installed()); err != nil {
			return nil, err
		}
		mended = append(mended, "nftables table inet "+TableName)
	}
	there, err := n.bridgeHasAddresses()
	if err != nil {
		return mended, err
	}
	if !there {
		if err := n.ensureBridge(); err != nil {
			return mended, err
		}
		mended = append(mended, "addresses of the bridge "+n.config.Bridge)
	}
	return mended, nil
}

// Close gives up this process's handles; namespaces, bridge and rules stay.
func (n *Network) Close() error {
	if n.links != nil {
		n.links.Close()
	}
	if err := n.host.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close node's network namespace: %w", err)
	}
	return nil
}

// Teardown removes every namespace, the bridge and the rules, in this order, and
// closes the Network. No container may be left.
func (n *Network) Teardown(ctx context.Context) error {
	if _, err := n.Sweep(ctx, func(string) bool { return false }); err != nil {
		return err
	}
	bridge, err := n.links.LinkByName(n.config.Bridge)
	if err == nil {
		err = n.links.LinkDel(bridge)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove bridge %s: %w", n.config.Bridge, err)
	}
	if err := removeRules(); err != nil {
		return err
	}
	return n.Close()
}

// ensureBridge makes the bridge, or brings one of an earlier run into shape.
func (n *Network) ensureBridge() error {
	name := n.config.Bridge
	fail := func(err error) error { return fmt.Errorf("bridge %s (needs CAP_NET_ADMIN): %w", name, err) }

	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, n.config.MTU
	// An address of its own: otherwise the bridge takes the lowest of its ports',
	// which changes as containers come and go under their neighbour caches.
	gateway := n.gateway.As4()
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0x53, gateway[0], gateway[1], gateway[2], gateway[3]}
	snooping := false
	if err := n.links.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil && !errors.Is(err, os.ErrExist) {
		return fail(err)
	}
	bridge, err := n.links.LinkByName(name)
	if err != nil {
		return fail(err)
	}
	if bridge.Type() != "bridge" {
		return fail(fmt.Errorf("an interface of that name exists and is of type %s; choose another name", bridge.Type()))
	}
	if err := n.setIPv6(name); err != nil {
		return err
	}
	// A packet from the bridge must have come from an address that leads there.
	if err := writeSysctl("net/ipv4/conf/"+name+"/rp_filter", "1"); err != nil {
		return err
	}
	for _, cidr := range n.config.cidrs() {
		if err := n.links.AddrReplace(bridge, addressIn(cidr, cidr.Addr().Next())); err != nil {
			return fail(err)
		}
	}
	if err := n.links.LinkSetMTU(bridge, n.config.MTU); err != nil {
		return fail(err)
	}
	if err := n.links.LinkSetUp(bridge); err != nil {
		return fail(err)
	}
	return nil
}

// defaultMTU is the MTU of the interface of the default route.
func (n *Network) defaultMTU() (int, error) {
	const ethernet = 1500
	routes, err := n.links.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0, fmt.Errorf("list the node's routes: %w", err)
	}
	for _, route := range routes {
		if route.Dst != nil && !route.Dst.IP.IsUnspecified() {
			continue
		}
		link, err := n.links.LinkByIndex(route.LinkIndex)
		if err != nil {
			continue // a route over several interfaces names none
		}
		return link.Attrs().MTU, nil
	}
	return ethernet, nil
}

func writeSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

func isGone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
