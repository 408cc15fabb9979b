package provider

import (
	"net/netip"
	"strings"
	"time"
)

// addressPools gives pods an address of each family that the cluster has. It is
// safe for concurrent use.
type addressPools []*addresses

func newAddressPools(cidr, cidr6 netip.Prefix, start uint64, now func() time.Time) (addressPools, error) {
	cidrs := []netip.Prefix{cidr}
	if cidr6.IsValid() {
		cidrs = append(cidrs, cidr6)
	}
	var pools addressPools
	for _, cidr := range cidrs {
		pool, err := newAddresses(cidr, start, now)
		if err != nil {
			return nil, err
		}
		pools = append(pools, pool)
	}
	return pools, nil
}

// keep takes the addresses a pod has already, at the start. It returns those that
// it cannot keep.
func (p addressPools) keep(uid string, addrs []netip.Addr) (refused []netip.Addr) {
	for _, addr := range addrs {
		kept := false
		for _, pool := range p {
			kept = kept || pool.keep(uid, addr)
		}
		if !kept {
			refused = append(refused, addr)
		}
	}
	return refused
}

// take returns the pod's addresses, giving it those that it has not.
func (p addressPools) take(uid string) (podIPs, error) {
	var ips podIPs
	for _, pool := range p {
		addr, err := pool.take(uid)
		if err != nil {
			return nil, err
		}
		ips = append(ips, addr.String())
	}
	return ips, nil
}

// release gives the pod's addresses back.
func (p addressPools) release(uid string) {
	for _, pool := range p {
		pool.release(uid)
	}
}

// podIPs are a pod's addresses, the IPv4 one first.
type podIPs []string

// first is the pod's podIP; empty if it has none.
func (ips podIPs) first() string {
	if len(ips) == 0 {
		return ""
	}
	return ips[0]
}

// second is its IPv6 address beside the first; empty if it has none.
func (ips podIPs) second() string {
	if len(ips) < 2 {
		return ""
	}
	return ips[1]
}

// String is what the downward API makes of status.podIPs.
func (ips podIPs) String() string { return strings.Join(ips, ",") }
