package ranges

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

func route(dst string, protocol netlink.RouteProtocol) netlink.Route {
	if dst == "" {
		return netlink.Route{}
	}
	_, network, err := net.ParseCIDR(dst)
	if err != nil {
		panic(err)
	}
	return netlink.Route{Dst: network, Protocol: protocol}
}

func TestCheck(t *testing.T) {
	const ours = 213
	own := func(r netlink.Route) bool { return r.Protocol == ours }
	for _, test := range []struct {
		name  string
		route netlink.Route
		own   func(netlink.Route) bool
		ok    bool
	}{
		{"IPv6's default route", route("::/0", 0), nil, true},
		{"all of the public IPv6", route("2000::/3", 0), nil, true},
		{"IPv6 elsewhere", route("fd10:244::/64", 0), nil, true},
		{"IPv6, one address in it", route("fd10:245::7/128", 0), nil, false},
		{"IPv6 around it", route("fd00::/8", 0), nil, false},
		{"default route without destination", route("", 0), nil, true},
		{"default route", route("0.0.0.0/0", 0), nil, true},
		{"halves of a default route", route("0.0.0.0/1", 0), nil, true},
		{"elsewhere", route("10.244.0.0/16", 0), nil, true},
		{"just behind", route("10.246.0.0/32", 0), nil, true},
		{"the same", route("10.245.0.0/16", 0), nil, false},
		{"one address in it", route("10.245.255.255/32", 0), nil, false},
		{"around it", route("10.0.0.0/8", 0), nil, false},
		{"our own", route("10.245.0.0/16", ours), own, true},
		{"not our own", route("10.245.0.0/16", 4), own, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			prefix := netip.MustParsePrefix("10.245.0.0/16")
			if strings.Contains(test.name, "IPv6") {
				prefix = netip.MustParsePrefix("fd10:245::/64")
			}
			err := check("range", prefix, []netlink.Route{test.route}, test.own)
			if (err == nil) != test.ok {
				t.Errorf("error %v, want accepted: %v", err, test.ok)
			}
			if err != nil && !errors.Is(err, ErrInUse) {
				t.Errorf("error %v does not wrap %v", err, ErrInUse)
			}
		})
	}
}
