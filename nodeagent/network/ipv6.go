package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// nodeHasIPv6 says whether the node has a global IPv6 address, and so may have a
// way for what containers send.
func nodeHasIPv6() (bool, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V6)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("list the node's IPv6 addresses: %w", err)
	}
	for _, addr := range addrs {
		if addr.IP.IsGlobalUnicast() {
			return true, nil
		}
	}
	return false, nil
}

// forwardIPv6 has the node forward IPv6. An interface that has its addresses and
// routes from router advertisements would lose them by that, unless it is told to
// accept those all the same.
func forwardIPv6() error {
	const forwarding = "net/ipv6/conf/all/forwarding"
	value, err := readSysctl(forwarding)
	if err != nil || value == "1" {
		return err
	}
	interfaces, err := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
	if err != nil {
		return err
	}
	for _, path := range interfaces {
		name := strings.TrimPrefix(path, "/proc/sys/")
		value, err := readSysctl(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // the interface is gone
		}
		if err == nil && value == "1" {
			err = writeSysctl(name, "2")
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return writeSysctl(forwarding, "1")
}

// setIPv6 switches IPv6 of an interface on or off, as containers have some; addresses
// that it would give itself it has in neither case.
func (n *Network) setIPv6(name string) error {
	settings := map[string]string{"disable_ipv6": "1"}
	if n.config.CIDR6.IsValid() {
		settings = map[string]string{"disable_ipv6": "0", "accept_ra": "0", "autoconf": "0"}
	}
	for setting, value := range settings {
		if err := writeSysctl("net/ipv6/conf/"+name+"/"+setting, value); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// address6 is the IPv6 address of the container that has an IPv4 address: the range
// and the same number.
func (c Config) address6(addr netip.Addr) netip.Addr {
	raw, v4 := c.CIDR6.Addr().As16(), addr.As4()
	copy(raw[12:], v4[:])
	return netip.AddrFrom16(raw)
}

// containers6 is the part of the IPv6 range that is containers'.
func (c Config) containers6() netip.Prefix {
	return netip.PrefixFrom(c.address6(c.CIDR.Addr()), 96+c.CIDR.Bits())
}

// denied are the denied addresses, and the IPv6 ones that a translator in front of the
// node makes IPv4 ones of (NAT64, RFC 6052, section 2.1: the well-known prefix).
func (c Config) denied() []netip.Prefix {
	all := slices.Clone(c.Denied)
	if !c.CIDR6.IsValid() {
		return all
	}
	for _, cidr := range c.Denied {
		if cidr.Addr().Is4() {
			raw, v4 := netip.MustParseAddr("64:ff9b::").As16(), cidr.Addr().As4()
			copy(raw[12:], v4[:])
			all = append(all, netip.PrefixFrom(netip.AddrFrom16(raw), 96+cidr.Bits()))
		}
	}
	return all
}

// addressIn is an interface's address in a range. An IPv6 one is in use at once,
// not after it was asked whether somebody else has it: nobody has.
func addressIn(cidr netip.Prefix, addr netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())}}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

// bridgeHasAddresses says whether the bridge is up and has its addresses.
func (n *Network) bridgeHasAddresses() (bool, error) {
	bridge, err := n.links.LinkByName(n.config.Bridge)
	if isGone(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("bridge %s: %w", n.config.Bridge, err)
	}
	addrs, err := n.links.AddrList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("addresses of bridge %s: %w", n.config.Bridge, err)
	}
	missing := len(n.config.cidrs())
	for _, cidr := range n.config.cidrs() {
		for _, addr := range addrs {
			if addr.IP.Equal(cidr.Addr().Next().AsSlice()) {
				missing--
			}
		}
	}
	return missing == 0 && bridge.Attrs().Flags&net.FlagUp != 0, nil
}

func readSysctl(name string) (string, error) {
	value, err := os.ReadFile(filepath.Join("/proc/sys", name))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return strings.TrimSpace(string(value)), nil
}
