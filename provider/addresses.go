package provider

import (
	"container/list"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// addressRest is how long an address rests before it serves another pod. Route
// subscribers that have not acknowledged a withdrawal are waited for that long
// (invariant I2), so nobody can mean the former pod by it afterwards.
const addressRest = 10 * time.Minute

// ErrNoAddress says that every address of the CIDR is taken or resting.
var ErrNoAddress = errors.New("no free pod address")

// addresses gives pods addresses out of a CIDR. An address that was given back
// is used again as late as possible, never within addressRest, and the one
// that has rested longest first. It is safe for concurrent use.
type addresses struct {
	cidr netip.Prefix
	now  func() time.Time

	mu sync.Mutex
	// fresh is the next address to look at among those that this process has
	// not given yet, unseen how many these are at most.
	fresh  netip.Addr
	unseen int
	byUID  map[string]netip.Addr
	taken  map[netip.Addr]string
	// resting holds restingAddress values, the longest resting first; rests finds them.
	resting *list.List
	rests   map[netip.Addr]bool
}

type restingAddress struct {
	addr  netip.Addr
	since time.Time
}

// maxAddressBits bounds the addresses that are used of a wide CIDR.
const maxAddressBits = 20

// newAddresses begins to give addresses at the start-th of the CIDR, modulo its
// size. A start that differs each time keeps those that were given back shortly
// before a restart out of use for as long as possible.
func newAddresses(cidr netip.Prefix, start uint64, now func() time.Time) (*addresses, error) {
	cidr = cidr.Masked()
	if !cidr.IsValid() || cidr.Addr().BitLen()-cidr.Bits() < 2 {
		return nil, fmt.Errorf("the pod CIDR %v holds no addresses: give one such as 10.245.0.0/16", cidr)
	}
	size := uint64(1) << min(cidr.Addr().BitLen()-cidr.Bits(), maxAddressBits)
	return &addresses{
		cidr: cidr, now: now, fresh: advance(cidr.Addr(), start%size), unseen: int(size),
		byUID: map[string]netip.Addr{}, taken: map[netip.Addr]string{},
		resting: list.New(), rests: map[netip.Addr]bool{},
	}, nil
}

// advance is addr + n.
func advance(addr netip.Addr, n uint64) netip.Addr {
	raw := addr.AsSlice()
	for i := len(raw) - 1; i >= 0 && n > 0; i-- {
		n += uint64(raw[i])
		raw[i] = byte(n)
		n >>= 8
	}
	sum, _ := netip.AddrFromSlice(raw)
	return sum
}

// keep takes the address a pod has already, at the start. It returns false when
// the address is not of the CIDR or is another pod's.
func (a *addresses) keep(uid string, addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if holder, ok := a.taken[addr]; (ok && holder != uid) || a.rests[addr] || !a.usable(addr) {
		return false
	}
	if held, ok := a.byUID[uid]; ok && held != addr {
		return false
	}
	a.byUID[uid], a.taken[addr] = addr, uid
	return true
}

// usable leaves out the first and the last address of the CIDR, which are a
// network's own in most tools' eyes.
func (a *addresses) usable(addr netip.Addr) bool {
	return a.cidr.Contains(addr) && addr != a.cidr.Addr() && a.cidr.Contains(addr.Next())
}

// take returns the pod's address, giving it one when it has none.
func (a *addresses) take(uid string) (netip.Addr, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if addr, ok := a.byUID[uid]; ok {
		return addr, nil
	}
	addr, err := a.next()
	if err != nil {
		return netip.Addr{}, err
	}
	a.byUID[uid], a.taken[addr] = addr, uid
	return addr, nil
}

func (a *addresses) next() (netip.Addr, error) {
	for ; a.unseen > 0; a.unseen-- {
		addr := a.fresh
		if a.fresh = addr.Next(); !a.cidr.Contains(a.fresh) {
			a.fresh = a.cidr.Addr()
		}
		if a.taken[addr] == "" && !a.rests[addr] && a.usable(addr) {
			a.unseen--
			return addr, nil
		}
	}
	first := a.resting.Front()
	if first == nil {
		return netip.Addr{}, fmt.Errorf("%w: all of %v are taken by pods; delete some or widen the pod CIDR", ErrNoAddress, a.cidr)
	}
	rested := first.Value.(restingAddress)
	if left := addressRest - a.now().Sub(rested.since); left > 0 {
		return netip.Addr{}, fmt.Errorf("%w: all of %v are taken or were taken a short while ago; the next is free in %v", ErrNoAddress, a.cidr, left.Round(time.Second))
	}
	a.resting.Remove(first)
	delete(a.rests, rested.addr)
	return rested.addr, nil
}

// release gives the pod's address back. A pod without one is no error.
func (a *addresses) release(uid string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	addr, ok := a.byUID[uid]
	if !ok {
		return
	}
	delete(a.byUID, uid)
	delete(a.taken, addr)
	a.resting.PushBack(restingAddress{addr, a.now()})
	a.rests[addr] = true
}
