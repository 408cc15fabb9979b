package nodeagent

import (
	"sync"
	"time"

	"sanfran.dev/nodeagent/workerconn"
)

// usage says since when an instance has been idle. Three books are kept: the
// requests this agent forwards, which it knows by itself; what the worker
// reports, which includes requests that came past the agent; and who holds the
// instance without a request: programs, attachments and connections that somebody
// has asked the control plane for. It is safe for concurrent use.
type usage struct {
	mu     sync.Mutex
	ours   int
	held   int
	worker workerconn.Activity
	// came is when the worker last told of something new that came to it.
	came time.Time
	// idleSince is the zero time while something is going on.
	idleSince time.Time
}

func newUsage(now time.Time) *usage { return &usage{idleSince: now} }

// unknown says that what goes on is known only with the worker's next report.
func (u *usage) unknown() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.worker = workerconn.Activity{InFlight: 1}
	u.idleSince = time.Time{}
}

// begin counts a request that this agent is about to forward.
func (u *usage) begin() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ours++
	u.idleSince = time.Time{}
}

// end is the other half of begin.
func (u *usage) end(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ours--
	u.settle(now)
}

// hold keeps the instance from being idle until letGo.
func (u *usage) hold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held++
	u.idleSince = time.Time{}
}

// letGo is the other half of hold.
func (u *usage) letGo(now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held--
	u.settle(now)
}

// report takes over what the worker says.
func (u *usage) report(a workerconn.Activity, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if a.Came != u.worker.Came {
		u.came = now
	}
	u.worker = a
	// A report that says "idle" tells of activity since the one before.
	u.idleSince = time.Time{}
	u.settle(now)
}

func (u *usage) settle(now time.Time) {
	if u.ours == 0 && u.held == 0 && !u.worker.Busy() {
		u.idleSince = now
	}
}

// idleFor is how long nothing has been going on; negative while something is.
func (u *usage) idleFor(now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.idleSince.IsZero() {
		return -1
	}
	return now.Sub(u.idleSince)
}

// lastCame is when something new last came to the container, as its worker has it: a
// connection to the pod's address, or a request by a router.
func (u *usage) lastCame() time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.came
}

// inFlight reports whether a request runs, as far as either book knows.
func (u *usage) inFlight() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.ours > 0 || u.worker.InFlight > 0
}
