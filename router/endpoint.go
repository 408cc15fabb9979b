package router

import (
	"sync/atomic"
	"time"
)

// An endpoint that fails rests: restFirst after one failure, twice that after the
// next in a row, … and restLast at most. That is longer than a container takes to be
// replaced, or its route to be withdrawn, and short enough that one which was only
// out of breath is soon used again.
const (
	restFirst = time.Second
	restLast  = 30 * time.Second
)

// endpoint is what one process knows of a place that it sends requests to: an
// instance, or a pod's home agent. It outlives changes of the pod's route. It is
// safe for concurrent use.
type endpoint struct {
	// outstanding counts the requests that were sent there and have not ended.
	outstanding atomic.Int64
	// failures in a row; rests until restUntil, in nanos, if that is not zero.
	failures  atomic.Int32
	restUntil atomic.Int64
}

// failed notes that the endpoint refused a connection, or broke one before it
// answered.
func (e *endpoint) failed(now int64) {
	rest := restFirst << min(e.failures.Add(1)-1, 5)
	e.restUntil.Store(now + int64(min(rest, restLast)))
}

// answered notes that the endpoint works.
func (e *endpoint) answered() {
	// Nearly always there is nothing to write, and what many read is not touched.
	if e.failures.Load() != 0 {
		e.failures.Store(0)
		e.restUntil.Store(0)
	}
}

// resting says whether the endpoint is to be passed over while there are others.
func (e *endpoint) resting() bool {
	until := e.restUntil.Load()
	return until != 0 && nanos() < until
}

var epoch = time.Now()

// nanos is a clock that never goes back. Its zero means nothing.
func nanos() int64 { return int64(time.Since(epoch)) }
