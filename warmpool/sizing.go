package warmpool

import (
	"math"
	"time"
)

// PoolSizing bounds the warm containers of each runtime on one agent.
type PoolSizing struct {
	// Floor is kept however quiet it is, of the default runtime and of those that
	// pods of the agent use; Unused is what is kept of any other. Max is never
	// exceeded.
	Floor, Unused, Max int
	// DefaultRuntime is the one that most pods will be of; empty: there is none.
	DefaultRuntime string
	// Refill is how long an agent takes to make one container warm.
	Refill time.Duration
}

// Target is how many warm containers of a runtime an agent should keep: what
// arrives while one container is being made, at the greatest rate seen lately,
// twice over because arrivals come in bursts, and at least the floor. used says
// that the agent has pods of the runtime; one that was leased lately is in use,
// too, so that a pod that is made anew does not empty the pool.
func (s PoolSizing) Target(runtime string, used bool, peakLeasesPerSecond float64) int {
	floor := s.Floor
	if !used && peakLeasesPerSecond == 0 && runtime != s.DefaultRuntime {
		floor = min(s.Unused, s.Floor)
	}
	want := int(math.Ceil(2 * peakLeasesPerSecond * s.Refill.Seconds()))
	return min(max(want, floor), max(s.Max, s.Floor))
}

// arrivals remembers the leases of the last arrivalsWindow, second by second.
type arrivals struct {
	counts [60]int
	second int64 // Unix time of the newest count
}

const arrivalsWindow = 60

func (a *arrivals) advance(now time.Time) {
	second := now.Unix()
	for s := max(a.second+1, second-arrivalsWindow+1); s <= second; s++ {
		a.counts[s%arrivalsWindow] = 0
	}
	a.second = max(a.second, second)
}

// add counts one lease at now.
func (a *arrivals) add(now time.Time) {
	a.advance(now)
	a.counts[a.second%arrivalsWindow]++
}

// peak is the greatest number of leases in one second of the window.
func (a *arrivals) peak(now time.Time) float64 {
	a.advance(now)
	most := 0
	for _, n := range a.counts {
		most = max(most, n)
	}
	return float64(most)
}
