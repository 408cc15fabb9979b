package pool

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// A slot goes through these states, never back but for one step: an item that
// was handed to a waiter who had left by then was leased to nobody, and is
// Warm again.
type state uint8

const (
	warming  state = iota + 1 // being started; it has no item yet
	warm                      // ready for a lease
	leased                    // its owner's
	draining                  // being destroyed, by the pool or by its owner
	gone                      // destroyed; the slot is free
)

// waiter is somebody who waits for an item. item is received from its channel
// once the waiter is out of the queue.
type waiter[T comparable] struct{ item chan T }

// slots is the state of a pool: plain data and decisions, no I/O, no clock, no
// goroutine. The methods are called under one mutex and return what is to be
// done once it is released. Time comes in as an argument.
//
// Invariants, checked by check:
//   - no more than maxParallel items are Warming;
//   - nobody waits while an item is Warm;
//   - Warm items are no more than target;
//   - while back-off lasts nothing new starts, and after it one start at a
//     time until one succeeds;
//   - for rest after a lease nothing starts that nobody waits for.
type slots[T comparable] struct {
	target      int
	maxParallel int
	minBackoff  time.Duration
	maxBackoff  time.Duration
	rest        time.Duration

	warming int
	ready   []T // Warm, the longest first
	owned   map[T]state
	waiters []*waiter[T] // the longest first

	restUntil time.Time

	failures int // starts that failed since one succeeded
	retryAt  time.Time
	lastErr  error
	lastAt   time.Time
	closed   bool

	started, failed, lost uint64
}

func newSlots[T comparable](target, maxParallel int, minBackoff, maxBackoff, rest time.Duration) *slots[T] {
	return &slots[T]{
		target: target, maxParallel: maxParallel, minBackoff: minBackoff, maxBackoff: maxBackoff, rest: rest,
		owned: map[T]state{},
	}
}

// starts says how many starts to begin now, and counts them as Warming. If
// back-off or a rest is what keeps it from beginning more, wait is how long.
func (s *slots[T]) starts(now time.Time) (n int, wait time.Duration) {
	if s.closed {
		return 0, 0
	}
	n = min(s.target+len(s.waiters)-len(s.ready)-s.warming, s.room())
	if n <= 0 {
		return 0, 0
	}
	if wait = s.retryAt.Sub(now); s.failures > 0 && wait > 0 {
		return 0, wait
	}
	if wait = s.restUntil.Sub(now); len(s.waiters) == 0 && wait > 0 {
		return 0, wait
	}
	s.warming += n
	return n, 0
}

// room is how many more may be Warming.
func (s *slots[T]) room() int {
	if s.failures > 0 {
		return 1 - s.warming // one at a time, until one succeeds
	}
	return s.maxParallel - s.warming
}

// startFailed ends a start without an item.
func (s *slots[T]) startFailed(now time.Time, err error) {
	s.warming--
	s.failed++
	s.failures++
	s.lastErr, s.lastAt = err, now
	// Of several starts that fail together only the first sets the pace.
	if s.failures == 1 || !now.Before(s.retryAt) {
		s.retryAt = now.Add(s.backoff())
	}
}

func (s *slots[T]) backoff() time.Duration {
	wait := s.minBackoff
	for range s.failures - 1 {
		if wait *= 2; wait >= s.maxBackoff {
			return s.maxBackoff
		}
	}
	return wait
}

// startDone ends a start with an item: it is given to the waiter that is
// returned, or kept, or else surplus, to be destroyed by the pool.
func (s *slots[T]) startDone(item T, alive bool) (to *waiter[T], surplus bool) {
	s.failures, s.retryAt = 0, time.Time{}
	s.started++
	s.warming--
	return s.offer(item, alive)
}

// offer finds a use for an item that has served nobody.
func (s *slots[T]) offer(item T, alive bool) (to *waiter[T], surplus bool) {
	switch {
	case !alive:
		s.lost++
		s.owned[item] = draining
		return nil, true
	case len(s.waiters) > 0:
		to = s.waiters[0]
		s.waiters = slices.Delete(s.waiters, 0, 1)
		s.owned[item] = leased
		return to, false
	case len(s.ready) < s.target:
		s.owned[item] = warm
		s.ready = append(s.ready, item)
		return nil, false
	default:
		s.owned[item] = draining
		return nil, true
	}
}

// acquire leases an item now, or returns the waiter to wait with. Those that
// turned out to be dead are for the pool to destroy.
func (s *slots[T]) acquire(now time.Time, alive func(T) bool) (item T, w *waiter[T], dead []T) {
	for len(s.ready) > 0 {
		item = s.ready[0]
		if alive(item) {
			s.ready = slices.Delete(s.ready, 0, 1)
			s.owned[item] = leased
			if !now.Before(s.restUntil) { // or a stream of leases would put it off for ever
				s.restUntil = now.Add(s.rest)
			}
			return item, nil, dead
		}
		s.die(item)
		dead = append(dead, item)
	}
	var none T
	w = &waiter[T]{item: make(chan T, 1)}
	s.waiters = append(s.waiters, w)
	return none, w, dead
}

// leave takes a waiter out of the queue. It returns false if it is not there:
// then an item has been given to it, and is or will be in its channel.
func (s *slots[T]) leave(w *waiter[T]) bool {
	i := slices.Index(s.waiters, w)
	if i < 0 {
		return false
	}
	s.waiters = slices.Delete(s.waiters, i, i+1)
	return true
}

// giveBack is for an item given to a waiter that had left: nobody has seen it,
// so it may serve somebody else.
func (s *slots[T]) giveBack(item T, alive bool) (to *waiter[T], surplus bool) {
	return s.offer(item, alive)
}

// adopt takes in an item that was started elsewhere: one that is leased already,
// or one to be leased.
func (s *slots[T]) adopt(item T, isLeased bool) {
	if isLeased {
		s.owned[item] = leased
		return
	}
	s.target = max(s.target, len(s.ready)+1)
	s.owned[item] = warm
	s.ready = append(s.ready, item)
}

// errNotLeased is returned for an item that is not its caller's.
var errNotLeased = errors.New("not leased from this pool")

// drain says that a leased item's owner has begun to destroy it.
func (s *slots[T]) drain(item T) error {
	if s.owned[item] != leased {
		return fmt.Errorf("drain: item is %v: %w", s.owned[item], errNotLeased)
	}
	s.owned[item] = draining
	return nil
}

// done says that an item is destroyed.
func (s *slots[T]) done(item T) error {
	if st := s.owned[item]; st != leased && st != draining {
		return fmt.Errorf("done: item is %v: %w", st, errNotLeased)
	}
	delete(s.owned, item)
	return nil
}

// die says that an item has died by itself. It returns true if the item was
// Warm: the pool has to destroy it then. All others are somebody else's, or
// not known yet and looked at when they are.
func (s *slots[T]) die(item T) bool {
	if s.owned[item] != warm {
		return false
	}
	i := slices.Index(s.ready, item)
	s.ready = slices.Delete(s.ready, i, i+1)
	s.owned[item] = draining
	s.lost++
	return true
}

// setTarget changes the target and returns what is too much.
func (s *slots[T]) setTarget(n int) (surplus []T) {
	s.target = n
	for len(s.ready) > n {
		item := s.ready[0]
		s.ready = slices.Delete(s.ready, 0, 1)
		s.owned[item] = draining
		surplus = append(surplus, item)
	}
	return surplus
}

// close returns the items to destroy and the waiters to turn away.
func (s *slots[T]) close() (surplus []T, turnedAway []*waiter[T]) {
	s.closed = true
	surplus, turnedAway = s.setTarget(0), s.waiters
	s.waiters = nil
	return surplus, turnedAway
}

// check returns an error if an invariant is broken.
func (s *slots[T]) check() error {
	count := map[state]int{}
	for _, st := range s.owned {
		count[st]++
	}
	switch {
	case s.warming < 0 || s.warming > s.maxParallel:
		return fmt.Errorf("%d are warming, at most %d may", s.warming, s.maxParallel)
	case len(s.waiters) > 0 && len(s.ready) > 0:
		return fmt.Errorf("%d wait while %d are warm", len(s.waiters), len(s.ready))
	case len(s.ready) > s.target:
		return fmt.Errorf("%d are warm, the target is %d", len(s.ready), s.target)
	case len(s.ready) != count[warm]:
		return fmt.Errorf("%d in the list of warm items, %d are in that state", len(s.ready), count[warm])
	case s.closed && len(s.ready)+len(s.waiters) > 0:
		return fmt.Errorf("closed with %d warm and %d waiting", len(s.ready), len(s.waiters))
	}
	return nil
}

func (st state) String() string {
	switch st {
	case warming:
		return "warming"
	case warm:
		return "warm"
	case leased:
		return "leased"
	case draining:
		return "draining"
	case gone, 0:
		return "gone"
	}
	return fmt.Sprintf("state(%d)", uint8(st))
}
