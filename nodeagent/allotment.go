package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"sanfran.dev/nodeagent/container"
)

const (
	// allotSlack is how much a container that drains may still grow when another
	// is to have the rest of the pod's memory.
	allotSlack = 16 << 20
	// allotLeast is what a container is given beside another, or it waits until
	// that one is gone: less is not enough to load anything.
	allotLeast = 80 << 20
	// allotDraining is the part of the pod's processor time, one in so many, that
	// all containers which drain beside another have together; allotLeastCPU is the
	// least that each has, the kernel's own bound (1 ms of each 100 ms).
	allotDraining = 10
	allotLeastCPU = 10
)

// allotment divides a pod's limits of memory and processor time between its
// containers. Mostly there is one, which has all of it. While another drains, that
// one is held to what it uses, and its successor has the rest: together they never
// have more than the pod.
//
// What a container will use of the processor is not known ahead, and what it does
// not use of its part is lost to the other. So the parts are fixed, and the one
// that drains has the small one. It is idle, or it would not have been parked: what
// it still does is to refuse what routers send it, to write its compile cache and to
// hear SIGTERM, all of which can be slow. That costs its successor a tenth for a
// second or a few. Without it a pod whose function computes when nobody calls would
// have its limit several times over, for as long as it is parked and woken. Where
// the successor waits for memory, the other keeps all until it is gone.
//
// One control group around both would do the same, but a process cannot be
// brought into it without its memory staying where it was charged, for
// milliseconds in which the kernel waits for all processors, and out of sight of
// the /sys/fs/cgroup that the container has (see ARCHITECTURE.md).
//
// It is safe for concurrent use.
type allotment struct {
	// whole is what the pod may have, as its only container has it.
	whole container.Resources

	mu    sync.Mutex
	parts map[*instance]part
	left  chan struct{} // closed and replaced when somebody leaves
}

// part is what one container may have. One that has ended has no memory.
type part struct{ memoryBytes, milliCPU int64 }

func newAllotment(whole container.Resources) *allotment {
	return &allotment{whole: whole, parts: map[*instance]part{}, left: make(chan struct{})}
}

// adopt gives an instance of an earlier process all that the pod may have, as that
// process may have held it to less. What a container that drains beside it still has
// comes on top, for as long as that drains.
func (a *allotment) adopt(i *instance) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	i.allotment = a
	return a.giveAll(i)
}

// giveAll gives an instance that is alone all that the pod may have. The caller
// holds mu.
func (a *allotment) giveAll(i *instance) error {
	a.parts[i] = part{a.whole.MemoryBytes, a.whole.MilliCPU}
	err := i.warm.container.SetResources(context.Background(), container.Resources{
		MilliCPU: a.whole.MilliCPU, MilliCPURequest: a.whole.MilliCPURequest,
		MemoryBytes: a.whole.MemoryBytes, MemoryRequestBytes: a.whole.MemoryRequestBytes})
	if errors.Is(err, container.ErrGone) {
		return nil
	}
	return err
}

// join gives an instance its part of what the pod may have and returns its limits.
// Where too little is left it waits until a container that drains is gone. Every
// instance that has joined leaves.
func (a *allotment) join(ctx context.Context, i *instance) (container.Resources, error) {
	for {
		limits, left, err := a.tryJoin(ctx, i)
		if err != nil || left == nil {
			return limits, err
		}
		select {
		case <-left:
		case <-ctx.Done():
			return container.Resources{}, fmt.Errorf("the pod's memory limit has no room for a second container while the one before ends: %w", context.Cause(ctx))
		}
	}
}

// tryJoin is one try; left, if not nil, says when to try again.
func (a *allotment) tryJoin(ctx context.Context, i *instance) (limits container.Resources, left <-chan struct{}, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	limits = a.whole
	need := int64(allotLeast)
	for other := range a.parts {
		used, err := a.squeeze(ctx, other)
		if err != nil {
			return limits, nil, err
		}
		limits.MemoryBytes -= a.parts[other].memoryBytes
		// The successor does the same work, and shall not die of having less.
		need = max(need, used+allotSlack)
	}
	if len(a.parts) > 0 && limits.MemoryBytes < need {
		return limits, a.left, nil
	}
	limits.MilliCPU = a.slow(ctx)
	a.parts[i] = part{limits.MemoryBytes, limits.MilliCPU}
	i.allotment = a
	return limits, nil, nil
}

// slow holds the containers that drain to their part of the processor time, and
// returns the rest of it. One that cannot be held keeps what it has, for as long as
// it drains: no request fails for that. The caller holds mu.
func (a *allotment) slow(ctx context.Context) (rest int64) {
	rest = a.whole.MilliCPU
	drain := int64(0)
	for _, p := range a.parts {
		if p.memoryBytes > 0 {
			drain++
		}
	}
	if drain == 0 || rest == 0 {
		return rest
	}
	each := max(rest/allotDraining/drain, allotLeastCPU)
	rest = max(rest-each*drain, each)
	for i, p := range a.parts {
		if p.memoryBytes == 0 || p.milliCPU <= each {
			continue
		}
		err := i.warm.container.SetResources(ctx, container.Resources{MilliCPU: each})
		switch {
		case errors.Is(err, container.ErrGone):
			a.parts[i] = part{}
		case err == nil:
			a.parts[i] = part{p.memoryBytes, each}
		}
	}
	return rest
}

// squeeze holds a container that drains to the memory it uses, and returns that. The
// caller holds mu.
func (a *allotment) squeeze(ctx context.Context, i *instance) (used int64, err error) {
	used, err = i.warm.container.MemoryInUse(ctx)
	if errors.Is(err, container.ErrGone) { // it has ended, and is being removed
		a.parts[i] = part{}
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	has, wants := a.parts[i], used+allotSlack
	if wants >= has.memoryBytes {
		return used, nil
	}
	// Requesting nothing, it is also the first to go when the node is full.
	err = i.warm.container.SetResources(ctx, container.Resources{MemoryBytes: wants})
	switch {
	case errors.Is(err, container.ErrGone):
		a.parts[i] = part{}
	case err == nil:
		a.parts[i] = part{wants, has.milliCPU}
	case ctx.Err() != nil:
		return 0, err
	}
	// Otherwise the kernel found nothing to drop: the part stays what it was.
	return used, nil
}

// leave takes back the part of a container that is gone, and gives it to the one
// that is left.
func (a *allotment) leave(i *instance) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.parts, i)
	close(a.left)
	a.left = make(chan struct{})
	if len(a.parts) != 1 {
		return nil
	}
	for last, has := range a.parts {
		if has.memoryBytes >= a.whole.MemoryBytes && has.milliCPU >= a.whole.MilliCPU {
			return nil
		}
		if err := a.giveAll(last); err != nil {
			return fmt.Errorf("give a container all that its pod may have: %w", err)
		}
	}
	return nil
}
