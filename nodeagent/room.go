package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"
)

const (
	// startBytes is what a container takes from its start until it is warm;
	// what it has then is warmBytes at most.
	startBytes = 64 << 20
	warmBytes  = 48 << 20
	// loadBytes is by how much a container grows at least when a function is
	// loaded and serves its first requests.
	loadBytes = 16 << 20
	// roomLook is how often who waits for memory looks whether there is some: the
	// kernel tells of its want, not of its return.
	roomLook = 50 * time.Millisecond
)

// errNoRoom: the node's share of memory is used up.
var errNoRoom = errors.New("the memory that this node gives to functions is used up")

// room is the node's memory for functions, as seen by what is about to use some.
// What containers have used shows in their control groups; what they are known to
// take in the next moment is promised here meanwhile, so that all who start at
// once do not each find the same bytes free. Whoever finds none waits: sooner
// than have the kernel end somebody who has done nothing.
//
// It is safe for concurrent use.
type room struct {
	// left says how much may still be used, as far as it takes to know whether
	// need is.
	left func(need int64) (int64, error)
	// short is told when somebody begins to wait, and each time the first of them
	// looks.
	short func()

	mu       sync.Mutex
	promised int64
	// loads wait before starts: they hold a container already.
	loads, starts []*roomWaiter
	woken         chan struct{} // closed and replaced when memory may have come free
	shortAt       time.Time     // when somebody last found too little
}

type roomWaiter struct{ bytes int64 }

func newRoom(left func(int64) (int64, error), short func()) *room {
	return &room{left: left, short: short, woken: make(chan struct{})}
}

// unlimited is the memory of an agent that nobody limits.
func unlimited(int64) (int64, error) { return math.MaxInt64, nil }

// forLoad promises memory to a container that is about to load a function; it
// waits for it, first come first served. done ends the promise: what was promised
// is in use, or the container is gone. Its error wraps errNoRoom if time ran out.
func (r *room) forLoad(ctx context.Context, bytes int64) (done func(), err error) {
	return r.take(ctx, &r.loads, bytes)
}

// forStart does the same for a container that is about to start.
func (r *room) forStart(ctx context.Context) (done func(), err error) {
	return r.take(ctx, &r.starts, startBytes)
}

// freed says that memory has come free.
func (r *room) freed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake()
}

// wake has those who wait look again. The caller holds mu.
func (r *room) wake() {
	close(r.woken)
	r.woken = make(chan struct{})
}

func (r *room) take(ctx context.Context, queue *[]*roomWaiter, bytes int64) (done func(), err error) {
	w := &roomWaiter{bytes}
	r.mu.Lock()
	*queue = append(*queue, w)
	for {
		first, taken, err := r.tryTake(queue, w)
		if taken {
			r.mu.Unlock()
			return sync.OnceFunc(func() {
				r.mu.Lock()
				defer r.mu.Unlock()
				r.promised -= bytes
				r.wake()
			}), nil
		}
		woken := r.woken
		r.mu.Unlock()
		if err != nil {
			r.drop(queue, w)
			return nil, err
		}
		var look <-chan time.Time
		if first {
			r.short()
			look = time.After(roomLook)
		}
		select {
		case <-woken:
		case <-look:
		case <-ctx.Done():
			r.drop(queue, w)
			return nil, fmt.Errorf("%w; %d MiB more were needed (%w)", errNoRoom, bytes>>20, context.Cause(ctx))
		}
		r.mu.Lock()
	}
}

// tryTake promises w its bytes if it is first and they are there. The caller
// holds mu.
func (r *room) tryTake(queue *[]*roomWaiter, w *roomWaiter) (first, taken bool, err error) {
	if (*queue)[0] != w || queue == &r.starts && len(r.loads) > 0 {
		return false, false, nil
	}
	left, err := r.left(r.promised + w.bytes)
	if err != nil {
		return true, false, fmt.Errorf("how much memory is left for functions: %w", err)
	}
	if left < r.promised+w.bytes {
		r.shortAt = time.Now()
		return true, false, nil
	}
	*queue = (*queue)[1:]
	r.promised += w.bytes
	if len(r.loads)+len(r.starts) > 0 {
		r.wake() // somebody else is first now
	}
	return true, true, nil
}

// drop takes a waiter out of its queue.
func (r *room) drop(queue *[]*roomWaiter, w *roomWaiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, other := range *queue {
		if other == w {
			*queue = append((*queue)[:i:i], (*queue)[i+1:]...)
			break
		}
	}
	r.wake()
}

// loadsWaiting is how many leased containers wait for memory.
func (r *room) loadsWaiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.loads)
}

// shortSince says whether somebody has waited for memory since then.
func (r *room) shortSince(then time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.shortAt.Before(then)
}
