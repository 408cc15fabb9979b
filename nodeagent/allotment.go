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
)

// allotment divides a pod's memory limit between its containers. Mostly there is
// one, which has all of it. While another drains, that one is held to what it
// uses, and its successor has the rest: together they never have more than the
// pod. One control group around both would do the same, but a process cannot be
// brought into it without its memory staying where it was charged, for
// milliseconds in which the kernel waits for all processors, and out of sight of
// the /sys/fs/cgroup that the container has (see ARCHITECTURE.md).
//
// It is safe for concurrent use.
type allotment struct {
	// whole is what the pod may have, as its only container has it.
	whole container.Resources

	mu    sync.Mutex
	parts map[*instance]int64
	left  chan struct{} // closed and replaced when somebody leaves
}

func newAllotment(whole container.Resources) *allotment {
	return &allotment{whole: whole, parts: map[*instance]int64{}, left: make(chan struct{})}
}

// adopt gives an instance of an earlier process the whole of the pod's memory, as
// that one may have held it to less. What a container that drains beside it still
// has comes on top, for as long as that drains.
func (a *allotment) adopt(i *instance) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.parts[i] = a.whole.MemoryBytes
	i.allotment = a
	err := i.warm.container.SetResources(context.Background(), container.Resources{
		MemoryBytes: a.whole.MemoryBytes, MemoryRequestBytes: a.whole.MemoryRequestBytes})
	if errors.Is(err, container.ErrGone) {
		return nil
	}
	return err
}

// join gives an instance its part of the pod's memory and returns its limits.
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
		limits.MemoryBytes -= a.parts[other]
		// The successor does the same work, and shall not die of having less.
		need = max(need, used+allotSlack)
	}
	if len(a.parts) > 0 && limits.MemoryBytes < need {
		return limits, a.left, nil
	}
	a.parts[i] = limits.MemoryBytes
	i.allotment = a
	return limits, nil, nil
}

// squeeze holds a container that drains to what it uses, and returns that. The
// caller holds mu.
func (a *allotment) squeeze(ctx context.Context, i *instance) (used int64, err error) {
	used, err = i.warm.container.MemoryInUse(ctx)
	if errors.Is(err, container.ErrGone) { // it has ended, and is being removed
		a.parts[i] = 0
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	part := used + allotSlack
	if part >= a.parts[i] {
		return used, nil
	}
	// Requesting nothing, it is also the first to go when the node is full.
	err = i.warm.container.SetResources(ctx, container.Resources{MemoryBytes: part})
	switch {
	case errors.Is(err, container.ErrGone):
		a.parts[i] = 0
	case err == nil:
		a.parts[i] = part
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
	for last, part := range a.parts {
		if part >= a.whole.MemoryBytes {
			return nil
		}
		err := last.warm.container.SetResources(context.Background(), container.Resources{
			MemoryBytes: a.whole.MemoryBytes, MemoryRequestBytes: a.whole.MemoryRequestBytes})
		if err != nil && !errors.Is(err, container.ErrGone) {
			return fmt.Errorf("give a container the pod's whole memory: %w", err)
		}
		a.parts[last] = a.whole.MemoryBytes
	}
	return nil
}
