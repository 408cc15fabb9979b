package provider

import (
	"context"
	"io"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// Leases is what the provider asks of the warm pool: a function pod becomes a
// lease, and the lease's state becomes the pod's status. All methods are safe
// for concurrent use, and none waits for an agent.
//
// The life of a pod, as the provider sees it:
//
//	Assign(A)   → Status: PREPARING → ACTIVE ⇄ PARKED, or FAILED and again
//	Withdraw(A) → Status: as before, until the agent has let go → nil
type Leases interface {
	// Assign makes or keeps a home for a pod. The assignment's epoch is left
	// to the pool; everything else is set, and nobody changes the message from
	// then on. Assigning the same content again changes nothing; other content
	// for the same UID takes the place of the former. Of the route, what gateways
	// do with the pod (exposed, owner, created_unix, policy) is taken, and changes
	// nothing about its containers; the rest is left to the pool. No agent with room
	// is no error: the pod's status then is PREPARING with a reason.
	Assign(ctx context.Context, assignment *agentv1.Assignment, route *routesv1.Route) error
	// Withdraw ends a pod's assignment and lets its requests in flight finish
	// within grace. It returns once that is decided; Status turns nil when it
	// is done. A UID that is not assigned is no error.
	Withdraw(ctx context.Context, podUID string, grace time.Duration) error
	// Status is how a pod is, or nil when the pool holds nothing of it: it was
	// never assigned, or is gone. The caller must not change the message.
	Status(podUID string) *agentv1.PodStatus
	// Subscribe has changed called after every change of a pod's Status, with
	// its UID. The call must not block; it may come from any goroutine, and
	// several changes may be told as one. It is for one subscriber, before
	// agents are served.
	Subscribe(changed func(podUID string))
	// Synced is called once in the life of the process, when every pod that
	// Kubernetes had on the node at the start has been assigned or found not to
	// be assignable. PodUIDs are all pods of the node. Until then the pool must
	// neither presume a pod gone nor tell an agent to drop one; after it, what
	// agents hold beside podUIDs and later assignments is nobody's.
	Synced(podUIDs []string)
	// Capacity is the sum of what the agents' nodes give to functions, and a
	// channel that is closed when it has changed.
	Capacity() (*agentv1.Capacity, <-chan struct{})
	// Pools are the stores of warm containers of the agents that are connected,
	// by node. The caller must not change the messages.
	Pools() map[string][]*agentv1.PoolStatus
}

// Bundles keeps functions' code for the agents.
type Bundles interface {
	// Put stores the archive that r streams under its digest ("sha256:…") and
	// returns once it is durable. One that is there already is no error, and r
	// is then not read.
	Put(ctx context.Context, digest string, r io.Reader) error
}
