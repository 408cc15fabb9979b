package nodeagent

import (
	"container/list"
	"slices"
	"sync"
	"time"
)

// quarantineSize is how many ports may rest at once: half of the default
// range, so that containers can always be started. When more leases end than
// that, the port that has rested longest is let go early; what then keeps a
// stale route from a stranger's function is the lease id.
const quarantineSize = 5000

// quarantine withholds the ports of ended leases until no router can still
// believe that the lease is there (invariant I2). It is safe for concurrent use.
type quarantine struct {
	period time.Duration
	size   int
	// keep is told of the sockets, so that they rest over the death of this process.
	keep *keeper

	mu      sync.Mutex
	resting *list.List // of restingPort, the longest first
	timer   *time.Timer
	closed  bool
}

type restingPort struct {
	socket Socket
	until  time.Time
}

func newQuarantine(period time.Duration, size int, keep *keeper) *quarantine {
	return &quarantine{period: period, size: size, keep: keep, resting: list.New()}
}

// put takes the socket over. Connections to it fail from now on, which tells
// routers that nothing was delivered.
func (q *quarantine) put(s Socket) error {
	if err := s.Close(); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return s.Release()
	}
	until := time.Now().Add(q.period)
	q.keep.rests(s, until)
	q.resting.PushBack(restingPort{s, until})
	q.settle()
	return nil
}

// adopt takes over what an earlier process has put: the sockets rest no longer
// than they would have. It comes before the first put.
func (q *quarantine) adopt(resting []restingPort) {
	q.mu.Lock()
	defer q.mu.Unlock()
	slices.SortFunc(resting, func(a, b restingPort) int { return a.until.Compare(b.until) })
	for _, r := range resting {
		q.resting.PushBack(r)
	}
	q.settle()
}

// release lets go of a port.
func (q *quarantine) release(r restingPort) {
	q.keep.rested(r.socket) // first: the duplicate holds the port, too
	_ = r.socket.Release()  // it listens no more: only a descriptor is left to close
}

// count is how many ports rest; each holds a descriptor.
func (q *quarantine) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.resting.Len()
}

// settle lets go of what has rested long enough, and sets the timer for the
// next. The caller holds mu.
func (q *quarantine) settle() {
	now := time.Now()
	for q.resting.Len() > 0 {
		first := q.resting.Front().Value.(restingPort)
		if wait := first.until.Sub(now); wait > 0 && q.resting.Len() <= q.size {
			if q.timer == nil {
				q.timer = time.AfterFunc(wait, q.due)
			}
			return
		}
		q.resting.Remove(q.resting.Front())
		q.release(first)
	}
}

func (q *quarantine) due() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.timer = nil
	q.settle()
}

// close releases everything; nothing routes to this agent any more.
func (q *quarantine) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	for e := q.resting.Front(); e != nil; e = e.Next() {
		q.release(e.Value.(restingPort))
	}
	q.resting.Init()
}
