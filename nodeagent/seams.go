package nodeagent

import (
	"context"
	"net/netip"
	"os"
	"syscall"

	"sanfran.dev/nodeagent/bundle"
)

// Bundles keeps code by digest; *bundle.Store does.
type Bundles interface {
	// Get returns a bundle for a namespace, fetched if need be. The caller releases it.
	Get(ctx context.Context, namespace, digest string) (*bundle.Bundle, error)
	// Stats are the store's numbers.
	Stats() bundle.Stats
}

// Socket is the listening socket of one container; *socket.Listening is one.
type Socket interface {
	// File is the socket; it stays the Socket's.
	File() *os.File
	Addr() netip.AddrPort
	// Close ends listening; the port stays the socket's, and withheld.
	Close() error
	// Release lets the port be given to another container.
	Release() error
}

// Addresses leads connections to function pods' addresses to listening
// sockets; *podaddress.Owner does. Every call is one update in the kernel.
type Addresses interface {
	// Assign leads an address to the agent's own listener.
	Assign(addr netip.Addr) error
	// Direct leads an assigned address to a container's listener.
	Direct(addr netip.Addr, listener syscall.Conn) error
	// Park leads it to the agent's listener again.
	Park(addr netip.Addr) error
	// Remove makes it nobody's.
	Remove(addr netip.Addr) error
	// Assigned lists the assigned addresses, those of an earlier process too.
	Assigned() ([]netip.Addr, error)
}

// Warmers hands out warm containers and keeps some in store. Safe for
// concurrent use.
type Warmers interface {
	// Acquire waits, first come first served, until there is a warm container
	// of the runtime, starting one if need be. The caller owns it.
	Acquire(ctx context.Context, runtime string) (*warmContainer, error)
	// Drain says that an acquired container has begun to end, Done that
	// nothing of it is left.
	Drain(*warmContainer)
	Done(*warmContainer)
	// SetTarget says how many of a runtime to keep in store.
	SetTarget(runtime string, warm int) error
	// Status is the store of every runtime.
	Status() []PoolStatus
}

// PoolStatus is the pool of one runtime in numbers.
type PoolStatus struct {
	Runtime                         string
	Warming, Warm, Leased, Draining int
	// StartFailures counts since the agent started, FailuresInARow since a start
	// succeeded.
	StartFailures  int64
	FailuresInARow int
	LastFailure    string
}
