package router

import (
	"time"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// What holds for a function that does not say. docs/routing.md names them.
const (
	defaultConnect   = 2 * time.Second
	defaultQueue     = 1000
	defaultQueueTime = 30 * time.Second
)

// Policy is how requests for a function are treated. It is immutable.
type Policy struct {
	// Connect, FirstByte, StreamIdle and Total bound parts of a request's time. All
	// but the first may be zero: no limit.
	Connect, FirstByte, StreamIdle, Total time.Duration
	// rate limits how often requests are let in; zero: it does not.
	rate rate
	// maxBody is the largest body of a request in bytes; zero: any.
	maxBody int64
	// concurrency is how many requests an instance has at a time; zero: any number.
	concurrency int64
	// queueLength and queueTime bound how many requests wait for an instance, and how
	// long. tellAgent is set where the time is not the agents' own.
	queueLength int64
	queueTime   time.Duration
	tellAgent   bool
	// split is nil when the function gets all of its requests.
	split *split
}

var defaultPolicy = &Policy{Connect: defaultConnect, queueLength: defaultQueue, queueTime: defaultQueueTime}

// timed says whether a request has to be watched by a clock, which costs it some
// microseconds.
func (p *Policy) timed() bool { return p.FirstByte > 0 || p.StreamIdle > 0 || p.Total > 0 }

// newPolicy reads a policy. The provider has checked it; what makes no sense all the
// same counts as not said.
func newPolicy(p *routesv1.Policy) *Policy {
	if p == nil {
		return defaultPolicy
	}
	policy := *defaultPolicy
	positive := func(to *time.Duration, d interface{ AsDuration() time.Duration }) bool {
		if v := d.AsDuration(); v > 0 {
			*to = v
			return true
		}
		return false
	}
	positive(&policy.Connect, p.GetConnectTimeout())
	positive(&policy.FirstByte, p.GetFirstByteTimeout())
	positive(&policy.StreamIdle, p.GetStreamIdleTimeout())
	positive(&policy.Total, p.GetRequestTimeout())
	policy.tellAgent = positive(&policy.queueTime, p.GetQueueTimeout())
	policy.rate = newRate(p.GetRate(), p.GetBurst())
	policy.maxBody = max(p.GetMaxBodyBytes(), 0)
	policy.concurrency = int64(p.GetConcurrency())
	if n := p.GetQueueLength(); n > 0 {
		policy.queueLength = int64(n)
	}
	policy.split = newSplit(p.GetSplit())
	return &policy
}
