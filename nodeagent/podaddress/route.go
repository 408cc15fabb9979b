package podaddress

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/network/ranges"
)

// routeProtocol marks our routes, so that one of an earlier run is known as such
// (rtnetlink lets every routing program choose a number; 0–4 are the kernel's and
// the administrator's, routing daemons have theirs below 193).
const routeProtocol = 213

// preflight refuses a CIDR that the node already uses for something else.
func preflight(cidr netip.Prefix) error {
	return ranges.Check("function pods' range", cidr, isOurs)
}

func isOurs(route netlink.Route) bool {
	return route.Protocol == routeProtocol && route.Type == unix.RTN_LOCAL
}

func loopbackIndex() (int, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return 0, fmt.Errorf("loopback interface: %w", err)
	}
	return lo.Attrs().Index, nil
}

// addRoute makes every address of cidr one of this node.
func addRoute(cidr netip.Prefix, source netip.Addr) error {
	lo, err := loopbackIndex()
	if err != nil {
		return err
	}
	route := &netlink.Route{
		Dst: ipNet(cidr), LinkIndex: lo, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
		Scope: netlink.SCOPE_HOST, Protocol: routeProtocol,
	}
	if source.IsValid() {
		route.Src = source.AsSlice()
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add route local %v dev lo (needs CAP_NET_ADMIN): %w", cidr, err)
	}
	return nil
}

// removeRoutes removes our routes but the one of keep.
func removeRoutes(keep netip.Prefix) error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_LOCAL}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("list local routes: %w", err)
	}
	for _, route := range routes {
		if !isOurs(route) || route.Dst == nil || route.Dst.String() == keep.String() {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil {
			return fmt.Errorf("remove route local %v dev lo: %w", route.Dst, err)
		}
	}
	return nil
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}
