package workerconn

import "time"

// allowance is a token bucket, used by one goroutine.
type allowance struct {
	tokens, burst, perSecond float64
	last                     time.Time
}

func newAllowance(burst, perSecond float64) *allowance {
	return &allowance{tokens: burst, burst: burst, perSecond: perSecond, last: time.Now()}
}

func (a *allowance) take(now time.Time) bool {
	a.tokens = min(a.burst, a.tokens+a.perSecond*now.Sub(a.last).Seconds())
	a.last = now
	if a.tokens < 1 {
		return false
	}
	a.tokens--
	return true
}
