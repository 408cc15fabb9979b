package nodeagent

import (
	"errors"
	"log/slog"
	"net/netip"
	"sync"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/router"
)

// addressBook decides which listener answers for each function pod address on
// this node: the container of a pod that is active here, else this agent, for
// pods that are parked here or live elsewhere; else nobody. It is safe for
// concurrent use. It takes pods' locks; whoever holds one must not call it.
type addressBook struct {
	owner Addresses
	log   *slog.Logger

	mu    sync.RWMutex
	local map[netip.Addr]*pod
	// routed are the addresses of the route table, by pod UID.
	routed map[netip.Addr]string
	// held lead to containers of an earlier process, whose pods may still come.
	held map[netip.Addr]bool
}

func newAddressBook(owner Addresses, log *slog.Logger) *addressBook {
	return &addressBook{owner: owner, log: log, local: map[netip.Addr]*pod{}, routed: map[netip.Addr]string{}, held: map[netip.Addr]bool{}}
}

// lookup returns the pod of this agent that has the address, or nil.
func (b *addressBook) lookup(addr netip.Addr) *pod {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.local[addr]
}

// claim makes its addresses those of a pod of this agent. The newest pod wins. If
// there is a container that has outlived an earlier process, they go on leading
// there.
func (b *addressBook) claim(p *pod, o *outlived) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, addr := range p.spec.addresses() {
		// An address that is not assigned is refused.
		if o == nil || b.owner.Direct(addr, o.instance.warm.socket.File()) != nil {
			if err := failpoint.After("address: assigned", b.owner.Assign(addr)); err != nil {
				return err
			}
		}
		delete(b.held, addr)
		b.local[addr] = p
	}
	return nil
}

// hold leaves addresses as they are, although no pod has them, until they are
// claimed or no longer held.
func (b *addressBook) hold(addrs ...netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, addr := range addrs {
		b.held[addr] = true
	}
}

// unhold is the other half of hold. It changes nothing that is not held.
func (b *addressBook) unhold(addrs ...netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, addr := range addrs {
		if b.held[addr] {
			delete(b.held, addr)
			b.settle(addr)
		}
	}
}

// refresh leads a pod's addresses to where the pod is now. It is called after
// every change; whatever order the calls come in, the last one sees the truth.
func (b *addressBook) refresh(p *pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, addr := range p.spec.addresses() {
		if b.local[addr] != p {
			continue
		}
		p.mu.Lock()
		current := p.current
		if current == nil {
			current = p.last
		}
		p.mu.Unlock()
		var err error
		if current != nil {
			err = failpoint.After("address: directed", b.owner.Direct(addr, current.warm.socket.File()))
		} else {
			err = failpoint.After("address: parked", b.owner.Park(addr))
		}
		if err != nil {
			// The agent's listener answers too, only less directly.
			b.log.Error("a pod's address is not led to its container", "pod", p.spec.PodUID, "address", addr, "err", err)
		}
	}
}

// release gives up a withdrawn pod's addresses. If routes know one, its pod lives
// elsewhere by now, and this agent forwards.
func (b *addressBook) release(p *pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, addr := range p.spec.addresses() {
		if b.local[addr] == p {
			delete(b.local, addr)
			b.settle(addr)
		}
	}
}

// settle applies what is known of an address that no pod here has. The caller
// holds mu.
func (b *addressBook) settle(addr netip.Addr) {
	if b.local[addr] != nil || b.held[addr] {
		return
	}
	var err error
	if _, ok := b.routed[addr]; ok {
		err = b.owner.Assign(addr)
	} else {
		err = failpoint.After("address: given up", b.owner.Remove(addr))
	}
	if err != nil {
		b.log.Error("a function pod's address", "address", addr, "err", err)
	}
}

// routesChanged follows the route table.
func (b *addressBook) routesChanged(change router.Change) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, gone := range change.Removed {
		for addr := range gone.Addresses {
			// The address may have a new owner already.
			if b.routed[addr] == gone.UID {
				delete(b.routed, addr)
				b.settle(addr)
			}
		}
	}
	for _, pod := range change.Upserted {
		for addr := range pod.Addresses {
			before, known := b.routed[addr]
			b.routed[addr] = pod.UID
			if !known {
				b.settle(addr)
			} else if before != pod.UID {
				b.log.Debug("a function pod's address changed hands", "address", addr, "from", before, "to", pod.UID)
			}
		}
	}
}

// removeStale takes away the addresses of an earlier process that no pod has
// now. It is called once assignments and routes are known.
func (b *addressBook) removeStale() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	assigned, err := b.owner.Assigned()
	if err != nil {
		return err
	}
	var errs []error
	for _, addr := range assigned {
		_, routed := b.routed[addr]
		if !routed && b.local[addr] == nil && !b.held[addr] {
			errs = append(errs, b.owner.Remove(addr))
		}
	}
	return errors.Join(errs...)
}
