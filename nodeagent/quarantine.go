package nodeagent

import (
	"container/list"
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

	mu      sync.Mutex
	resting *list.List // of restingPort, the longest first
	timer   *time.Timer
	closed  bool
}

type restingPort struct {
	socket Socket
	until  time.Time
}

func newQuarantine(period time.Duration, size int) *quarantine {
	return &quarantine{period: period, size: size, resting: list.New()}
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
	q.resting.PushBack(restingPort{s, time.Now().Add(q.period)})
	q.settle()
	return nil
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
		_ = first.socket.Release() // it listens no more: only a descriptor is left to close
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
		_ = e.Value.(restingPort).socket.Release()
	}
	q.resting.Init()
}
