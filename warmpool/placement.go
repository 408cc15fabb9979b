package warmpool

import "math/rand/v2"

// Candidate is an agent a pod could be given to.
type Candidate struct {
	Node string
	// FreeWarm is how many warm containers of the pod's runtime nobody has
	// been promised.
	FreeWarm int
	// HasBundle says whether another pod there uses the same code.
	HasBundle bool
	// Pods is how many pods it is home to.
	Pods int
}

// Place chooses a home among candidates, which are in any order, or returns
// false when there are none. Of two drawn at random the better one is taken:
// that spreads nearly as well as asking all of them, and does not send a burst
// to whichever agent was the best one when it began. A third is compared with
// them, drawn from those that have the bundle and a warm container, because
// fetching and unpacking take longer than starting. The same rng and the same
// candidates give the same choice.
func Place(rng *rand.Rand, candidates []Candidate) (string, bool) {
	if len(candidates) == 0 {
		return "", false
	}
	first := rng.IntN(len(candidates))
	best := candidates[first]
	if len(candidates) > 1 {
		second := rng.IntN(len(candidates) - 1)
		if second >= first {
			second++
		}
		best = better(best, candidates[second])
	}
	var local []Candidate
	for _, c := range candidates {
		if c.HasBundle && c.FreeWarm > 0 {
			local = append(local, c)
		}
	}
	if len(local) > 0 {
		best = better(best, local[rng.IntN(len(local))])
	}
	return best.Node, true
}

// better compares by: a warm container at all, the bundle, more warm
// containers, fewer pods.
func better(a, b Candidate) Candidate {
	switch {
	case (a.FreeWarm > 0) != (b.FreeWarm > 0):
		return choose(a.FreeWarm > 0, a, b)
	case a.HasBundle != b.HasBundle:
		return choose(a.HasBundle, a, b)
	case a.FreeWarm != b.FreeWarm:
		return choose(a.FreeWarm > b.FreeWarm, a, b)
	default:
		return choose(a.Pods <= b.Pods, a, b)
	}
}

func choose(first bool, a, b Candidate) Candidate {
	if first {
		return a
	}
	return b
}
