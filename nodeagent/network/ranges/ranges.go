// Package ranges checks that a range of addresses SanFran wants for itself is not
// in use on the node.
package ranges

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ErrInUse is in the chain of an error about a range that overlaps with one of
// the node's.
var ErrInUse = errors.New("addresses are in use on this node")

// Check refuses a range that shares addresses with any route of the node,
// in any table. Addresses of interfaces count, because the kernel keeps a local
// route for each. The default route does not count, nor does one that own
// reports as SanFran's; own may be nil. purpose names the range in the error.
func Check(purpose string, prefix netip.Prefix, own func(netlink.Route) bool) error {
	family := netlink.FAMILY_V4
	if prefix.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list the node's routes: %w", err)
	}
	return check(purpose, prefix, routes, own)
}

func check(purpose string, prefix netip.Prefix, routes []netlink.Route, own func(netlink.Route) bool) error {
	for _, route := range routes {
		if route.Dst == nil || (own != nil && own(route)) {
			continue
		}
		addr, ok := netip.AddrFromSlice(route.Dst.IP)
		if !ok {
			continue
		}
		bits, _ := route.Dst.Mask.Size()
		addr = addr.Unmap()
		used := netip.PrefixFrom(addr, bits)
		// 0.0.0.0/1 and 128.0.0.0/1 are how VPNs spell a default route, 2000::/3
		// is all of the public IPv6.
		if bits <= 1 || addr.Is6() && bits <= 3 || !used.Overlaps(prefix) {
			continue
		}
		return fmt.Errorf("%s %v: the node has route %v (table %d, %s): %w; choose another range that no node, pod, Service or network behind them uses",
			purpose, prefix, used, route.Table, device(route), ErrInUse)
	}
	return nil
}

func device(route netlink.Route) string {
	if route.LinkIndex == 0 {
		return "no interface"
	}
	link, err := netlink.LinkByIndex(route.LinkIndex)
	if err != nil {
		return fmt.Sprintf("interface %d", route.LinkIndex)
	}
	return "interface " + link.Attrs().Name
}
