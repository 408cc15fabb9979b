package podaddress

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

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

// ensureRoutes makes every address of the ranges one of this node, and says which
// routes were missing.
func (o *Owner) ensureRoutes() (missing []string, err error) {
	lo, err := loopbackIndex()
	if err != nil {
		return nil, err
	}
	for _, cidr := range o.config.CIDRs {
		route := &netlink.Route{
			Dst: ipNet(cidr), LinkIndex: lo, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL,
			Scope: netlink.SCOPE_HOST, Protocol: routeProtocol,
		}
		if cidr.Addr().Is6() {
			route.Scope = netlink.SCOPE_UNIVERSE // IPv6 knows no other
		}
		if source := o.config.source(cidr); source.IsValid() {
			route.Src = source.AsSlice()
		}
		there, err := hasRoute(route)
		if err != nil {
			return missing, err
		}
		if there {
			continue
		}
		if err := netlink.RouteReplace(route); err != nil {
			return missing, fmt.Errorf("add route local %v dev lo (needs CAP_NET_ADMIN): %w", cidr, err)
		}
		missing = append(missing, fmt.Sprintf("route local %v dev lo", cidr))
	}
	return missing, nil
}

// hasRoute says whether there is this route, with the same source address.
func hasRoute(want *netlink.Route) (bool, error) {
	routes, err := ourRoutes(familyOf(want.Dst))
	if err != nil {
		return false, err
	}
	for _, route := range routes {
		if route.Dst.String() == want.Dst.String() && route.LinkIndex == want.LinkIndex && route.Src.Equal(want.Src) {
			return true, nil
		}
	}
	return false, nil
}

// removeRoutes removes our routes but those of keep.
func removeRoutes(keep []netip.Prefix) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := ourRoutes(family)
		if err != nil {
			return err
		}
		for _, route := range routes {
			if slices.ContainsFunc(keep, func(p netip.Prefix) bool { return route.Dst.String() == p.String() }) {
				continue
			}
			if err := netlink.RouteDel(&route); err != nil {
				return fmt.Errorf("remove route local %v dev lo: %w", route.Dst, err)
			}
		}
	}
	return nil
}

// ourRoutes are the local routes of a family that an Owner has made.
func ourRoutes(family int) ([]netlink.Route, error) {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol}
	routes, err := netlink.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list local routes: %w", err)
	}
	return slices.DeleteFunc(routes, func(route netlink.Route) bool { return !isOurs(route) || route.Dst == nil }), nil
}

func familyOf(network *net.IPNet) int {
	if network.IP.To4() != nil {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func ipNet(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}
