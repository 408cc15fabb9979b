package main

import (
	"fmt"
	"hash/fnv"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// subnetPool holds the /24 networks that clusters may give their nodes. It
// lies in a corner of the private space that few use, and away from the
// ranges inside of a cluster.
var subnetPool = netip.MustParsePrefix("172.29.0.0/16")

// chooseSubnets gives a cluster's nodes an IPv4 /24 that none of taken
// overlaps, and an IPv6 /64. The first choice follows from the name, so that a
// cluster that is made again is likely to have its old addresses.
func chooseSubnets(name string, taken []netip.Prefix) (four, six netip.Prefix, err error) {
	hash := fnv.New32a()
	hash.Write([]byte(name))
	first := int(hash.Sum32() % 256)
	base := subnetPool.Addr().As4()
	for i := range 256 {
		third := byte((first + i) % 256)
		four = netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], third, 0}), 24)
		if overlapped(four, taken) {
			continue
		}
		// A unique local prefix that says whose it is.
		six = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x5a, 0x4f, 0x21, 0, 0, 0, third}), 64)
		return four, six, nil
	}
	return netip.Prefix{}, netip.Prefix{}, fmt.Errorf("every /24 of %s overlaps a route or an address of this machine; remove one (`ip route`)", subnetPool)
}

func overlapped(prefix netip.Prefix, taken []netip.Prefix) bool {
	for _, other := range taken {
		if other.Bits() > 0 && other.Overlaps(prefix) {
			return true
		}
	}
	return false
}

// takenPrefixes are the networks that this machine routes or has addresses in.
func takenPrefixes() ([]netip.Prefix, error) {
	var taken []netip.Prefix
	add := func(address []byte, mask []byte) {
		ip, ok := netip.AddrFromSlice(address)
		if !ok {
			return
		}
		bits := 0
		for _, b := range mask {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
		if ip.Is4In6() {
			ip = ip.Unmap()
		}
		if prefix, err := ip.Prefix(bits); err == nil {
			taken = append(taken, prefix)
		}
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, route := range routes {
		if route.Dst != nil {
			add(route.Dst.IP, route.Dst.Mask)
		}
	}
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, address := range addresses {
		add(address.IP, address.Mask)
	}
	return taken, nil
}
