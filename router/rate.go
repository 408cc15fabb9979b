package router

import (
	"math"
	"sync/atomic"
	"time"
)

// rate is a limit of requests: one in every interval on average, and burst of them at
// once after a pause. The zero rate limits nothing.
type rate struct {
	interval int64 // nanoseconds between two requests
	burst    int64
}

// newRate makes a limit of so many requests a second. Where burst is zero, what
// comes in a second may come at once.
func newRate(perSecond float64, burst uint32) rate {
	if !(perSecond > 0) || math.IsInf(perSecond, 0) {
		return rate{}
	}
	if burst == 0 {
		burst = uint32(min(max(math.Ceil(perSecond), 1), math.MaxInt32))
	}
	// One in a year is rare enough, and keeps the sums below from overflowing.
	interval := min(float64(time.Second)/perSecond, float64(365*24*time.Hour))
	return rate{interval: max(int64(interval), 1), burst: int64(burst)}
}

// bucket counts what a [rate] lets in, by the generic cell rate algorithm (ITU-T
// I.371): all it keeps is when the requests so far would be over if they had come
// evenly. It never locks, and one value serves a rate that changes.
type bucket struct {
	// due is in nanos; zero: nothing came yet.
	due atomic.Int64
}

// take asks for one request at now. If it is not let in, wait says when the next may
// be.
func (b *bucket) take(r rate, now int64) (wait time.Duration, ok bool) {
	if r.interval == 0 {
		return 0, true
	}
	// A burst of decades is no burst.
	ahead := r.interval * min(r.burst, math.MaxInt64/4/r.interval)
	for {
		due := b.due.Load()
		next := now
		if due != 0 {
			// After the rate was made faster no more is held against the client than
			// that allows for.
			next = min(max(due, now), now+ahead)
		}
		next += r.interval
		if over := next - now - ahead; over > 0 {
			return time.Duration(over), false
		}
		if next == 0 {
			next = 1
		}
		if b.due.CompareAndSwap(due, next) {
			return 0, true
		}
	}
}
