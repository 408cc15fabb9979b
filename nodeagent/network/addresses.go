package network

import (
	"fmt"
	"net/netip"
	"sync"
)

// addresses gives containers' addresses out, each again as late as possible.
type addresses struct {
	prefix  netip.Prefix
	gateway netip.Addr

	mu   sync.Mutex
	next netip.Addr
	used map[netip.Addr]bool
}

func newAddresses(prefix netip.Prefix, gateway netip.Addr) *addresses {
	return &addresses{prefix: prefix, gateway: gateway, next: gateway.Next(), used: map[netip.Addr]bool{}}
}

// take gives an unused address, going round the range.
func (a *addresses) take() (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Neither the network's, the bridge's nor the broadcast address.
	size := 1<<(32-a.prefix.Bits()) - 3
	if len(a.used) >= size {
		return netip.Addr{}, fmt.Errorf("all %d addresses of containers' range %v are in use; configure a wider range", size, a.prefix)
	}
	for {
		addr := a.next
		a.next = addr.Next()
		// The last address of the range is for broadcasts.
		if !a.prefix.Contains(a.next) {
			a.next = a.gateway.Next()
			continue
		}
		if !a.used[addr] {
			a.used[addr] = true
			return addr, nil
		}
	}
}

// claim marks an address as used that a namespace of an earlier run has. It says
// whether that was possible.
func (a *addresses) claim(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.prefix.Contains(addr) || addr == a.gateway || a.used[addr] {
		return false
	}
	a.used[addr] = true
	return true
}

func (a *addresses) give(addr netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, addr)
}
