package nodeagent

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"sanfran.dev/router"
)

// instance is one leased container: the binding of a container to a pod for
// the container's whole life (invariant I1).
type instance struct {
	warm *warmContainer
	// lease and nonce are random: the first opens the container's door, the
	// second is what its refusals carry.
	lease, nonce string
	leasedAt     time.Time
	// loaded is how long the function's module took, by the worker's clock. It
	// is set before the pod becomes Active.
	loaded time.Duration
	// stays: it is never parked. Set before the pod becomes Active.
	stays bool
	usage *usage
	// watchdog belongs to the supervisor's goroutine.
	watchdog watchdog
	// fate is why the container ended, once that is known.
	fate     *fate
	compiled compiled
	// allotment is that of its pod, once it has a part in it.
	allotment *allotment
	// evict is told that somebody else needs the memory.
	evict chan struct{}
	// cached is the key of the compile cache that is mounted; empty: none is. Set
	// before the pod becomes Active.
	cached string

	stopOnce sync.Once
	stop     chan struct{}
	grace    time.Duration
	// ended is closed when nothing of the container is left.
	ended chan struct{}
}

// newInstance leases a container. limit is how long its event loop may be
// blocked; delayed is told of each report's event loop delay.
func newInstance(w *warmContainer, now time.Time, limit time.Duration, delayed func(runtime string, delay time.Duration)) *instance {
	i := &instance{
		warm: w, lease: rand.Text(), nonce: rand.Text(), leasedAt: now,
		usage: newUsage(now), watchdog: watchdog{limit: limit}, fate: newFate(),
		stop: make(chan struct{}), ended: make(chan struct{}), evict: make(chan struct{}, 1),
	}
	report := func(a activityReport) {
		i.usage.report(a, time.Now())
		delayed(w.runtime, a.LoopDelay)
	}
	w.onActivity.Store(&report)
	return i
}

// address is host:port of the container's own socket.
func (i *instance) address() string { return i.warm.socket.Addr().String() }

// upstream is where the forwarder sends a request for this instance.
func (i *instance) upstream() router.Upstream {
	return router.Upstream{Address: i.address(), Lease: i.lease, Nonce: i.nonce}
}

// offer has the first request go over the connection that was opened ahead. A
// server of the function's own takes only such as were made since it listens.
func (i *instance) offer(f *router.Forwarder) {
	if i.warm.conn.Server() {
		i.warm.closeAhead()
	}
	if i.warm.ahead != nil {
		f.Offer(i.address(), i.warm.ahead)
		i.warm.ahead = nil
	}
}

// retire makes the instance's supervisor drain and end it. Later calls change
// nothing.
func (i *instance) retire(grace time.Duration) {
	i.stopOnce.Do(func() {
		i.grace = grace
		close(i.stop)
	})
}

// alive reports whether the container still runs.
func (i *instance) alive() bool { return i.warm.Alive() }

// cause is why an instance ends.
type cause int

const (
	// causeIdle: nobody called the pod.
	causeIdle cause = iota + 1
	// causeRetired: the pod is withdrawn or the agent stops.
	causeRetired
	// causeExited: the container ended by itself.
	causeExited
	// causeBroken: its worker broke the control protocol or closed it.
	causeBroken
	// causeBlocked: the function does not let its event loop run.
	causeBlocked
)

func (c cause) String() string {
	return [...]string{"", "idle", "retired", "exited", "broken", "blocked"}[c]
}

// watch waits for the instance's end. park is asked when the instance has been
// idle for the timeout, or when somebody else needs its memory, and says whether
// it was idle for so long and is parked now. compile is called once, when it has
// been idle for compileQuiet, if it holds the claim to write its compile cache.
func (i *instance) watch(idleTimeout time.Duration, park func(idle time.Duration) bool, compile func(context.Context)) cause {
	var quiet <-chan time.Time
	if i.compiled.claim != nil {
		quiet = time.After(compileQuiet)
	}
	var timer *time.Timer
	var due <-chan time.Time
	if idleTimeout > 0 {
		timer = time.NewTimer(idleTimeout)
		defer timer.Stop()
		due = timer.C
	}
	var look <-chan time.Time
	var lookTimer *time.Timer
	if i.watchdog.limit > 0 {
		lookTimer = time.NewTimer(i.watchdog.limit / 4)
		defer lookTimer.Stop()
		look = lookTimer.C
	}
	for {
		select {
		case <-i.stop:
			return causeRetired
		case <-look:
			wait, blocked := i.look(time.Now())
			if blocked {
				return causeBlocked
			}
			lookTimer.Reset(wait)
		case <-i.warm.container.Exited():
			return causeExited
		case <-i.warm.conn.Done():
			// A worker that exits closes the connection first: what counts is
			// how it exited.
			select {
			case <-i.warm.container.Exited():
				return causeExited
			case <-time.After(exitGrace):
				return causeBroken
			}
		case <-quiet:
			if idle := i.usage.idleFor(time.Now()); idle < compileQuiet {
				quiet = time.After(compileQuiet - max(idle, 0))
				continue
			}
			quiet = nil
			i.untilStopped(compile)
		case <-i.evict:
			if park(min(evictIdle, idleTimeout)) {
				return causeIdle
			}
		case <-due:
			idle := i.usage.idleFor(time.Now())
			if idle >= idleTimeout && park(idleTimeout) {
				return causeIdle
			}
			// Busy: look again after a whole timeout; whoever becomes idle in
			// between is found with the rest still to wait.
			wait := idleTimeout
			if idle > 0 && idle < idleTimeout {
				wait -= idle
			}
			timer.Reset(wait)
		}
	}
}

// look asks the worker for a sign of life when that is due, and reports whether
// the function has blocked its event loop for too long.
func (i *instance) look(now time.Time) (wait time.Duration, blocked bool) {
	conn := i.warm.conn
	v, wait := i.watchdog.look(now, conn.Heard(), i.usage.inFlight(), conn.Activity().Debugger)
	if v == ask {
		// An error ends the connection, which the supervisor sees.
		_ = conn.Ping()
	}
	return wait, v == stuck
}

// untilStopped calls f with a context that ends when the instance is retired.
func (i *instance) untilStopped(f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	var stopped sync.WaitGroup
	stopped.Go(func() {
		select {
		case <-i.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	f(ctx)
	cancel()
	stopped.Wait()
}

// exitGrace is how long after its connection a container may still live
// before it is held to have broken the protocol rather than to have exited.
const exitGrace = time.Second

// exitFailure describes a container that ended by itself, or that has to be ended
// because its worker broke the control protocol.
func (i *instance) exitFailure(c cause) *failure {
	if c != causeBroken {
		return exitFailure(i.warm, i.leasedAt)
	}
	f := &failure{reason: ReasonExited, message: fmt.Sprintf("the container was ended: %v", i.warm.conn.Err())}
	if words := lastWords(i.warm.output.last()); words != "" {
		f.message += "\n" + words
	}
	return f.ended(killed, i.leasedAt, time.Now())
}

// blockedFailure describes a container that has to be ended because its function
// does not let the event loop run.
func (i *instance) blockedFailure() *failure {
	return &failure{reason: ReasonEventLoopBlocked, message: fmt.Sprintf(
		"the function did not let its event loop run for more than %v: an endless or very long synchronous call", i.watchdog.limit)}
}

// drain lets what runs finish. It returns when the worker has nothing left to
// do, or the grace period is over, or the worker is gone, and reports whether
// the function listens for SIGTERM. early: it gets that at once.
func (i *instance) drain(ctx context.Context, grace time.Duration, early bool) (sigterm bool, err error) {
	// The worker gives up by itself after the grace; a second more for it to
	// say so.
	ctx, cancel := context.WithTimeoutCause(ctx, grace+time.Second, fmt.Errorf("it did not finish within its grace period of %v", grace))
	defer cancel()
	return i.warm.conn.Drain(ctx, grace, early)
}
