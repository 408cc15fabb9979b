package warmpool

import (
	"math"
	"time"
)

// PoolSizing bounds the warm containers of one runtime on one agent.
type PoolSizing struct {
	// Floor is kept however quiet it is; Max is never exceeded.
	Floor, Max int
	// Refill is how long an agent takes to make one container warm.
	Refill time.Duration
}

// Target is how many warm containers an agent should keep: what arrives while
// one container is being made, at the greatest rate seen lately, twice over
// because arrivals come in bursts, and at least the floor.
func (s PoolSizing) Target(peakLeasesPerSecond float64) int {
	want := int(math.Ceil(2 * peakLeasesPerSecond * s.Refill.Seconds()))
	return min(max(want, s.Floor), max(s.Max, s.Floor))
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
