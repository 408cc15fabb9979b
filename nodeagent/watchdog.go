package nodeagent

import "time"

// watchdog decides when a worker is asked for a sign of life, and when it has
// been stuck in one call of the function's for too long. It does no I/O, knows
// no clock, and is used by one goroutine.
//
// Only time without any sign counts, after one was asked for: a worker that
// computes for less than the limit, or in many calls, is never stuck. What is
// stuck is found between the limit and one and a half times of it.
type watchdog struct {
	// limit is how long a worker may be silent; not above 0: for ever.
	limit time.Duration
	// asked is when a sign was asked for that has not come; zero: none is due.
	asked time.Time
	// doubted says that the limit is over, and that one last look is due: it is
	// then this agent that may not have run for a while, or not have read.
	doubted bool
}

// verdict is what a look at a worker leads to.
type verdict int

const (
	// fine: nothing to do.
	fine verdict = iota
	// ask: ask the worker for a sign of life.
	ask
	// stuck: the worker is stuck.
	stuck
)

// look is told when the worker was last heard, whether it has requests in
// flight and whether it is being debugged. It returns what to do, and after
// which time to look again.
//
// A busy worker is asked every quarter of the limit, an idle one only once in
// a limit, to let it sleep: timers of its own may get it stuck, too.
func (w *watchdog) look(now, heard time.Time, busy, debugged bool) (verdict, time.Duration) {
	interval := w.limit / 4
	if heard.After(w.asked) {
		w.asked, w.doubted = time.Time{}, false
	}
	if w.asked.IsZero() {
		quiet := w.limit
		if busy {
			quiet = interval
		}
		if now.Sub(heard) < quiet {
			return fine, interval
		}
		w.asked = now
		return ask, interval
	}
	switch left := w.limit - now.Sub(w.asked); {
	case debugged: // it may stand still; whether it still is debugged, it says itself
		return fine, interval
	case left > 0:
		return fine, min(left, interval)
	case !w.doubted:
		w.doubted = true
		return fine, w.limit / 10
	default:
		return stuck, 0
	}
}
