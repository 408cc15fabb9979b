package router

import (
	"cmp"
	"math/rand/v2"
	"slices"
)

const (
	// spillAt is how many requests of this process a pod's container has in flight
	// before a parked pod of the same function is woken for the next one. One
	// Node.js process serves many requests at a time, but not any number: at a few
	// dozen in flight the wait in its event loop costs more than an activation.
	spillAt = 32
	// localUpTo is how many requests a container of this process's own node has in
	// flight before those of other nodes, which may be idle, are as good. The way to
	// another node costs less than to wait behind a few requests.
	localUpTo = 4
)

// choice is where a request goes: to an instance, or, when instance is nil, to
// the home agent of a pod.
type choice struct {
	pod      *Pod
	instance *Instance
}

// endpoint is where the request is counted.
func (c choice) endpoint() *endpoint {
	if c.instance != nil {
		return c.instance.endpoint
	}
	return c.pod.home
}

// verdict says why there is no choice.
type verdict int

const (
	// chosen: there is one.
	chosen verdict = iota
	// nowhere: no pod takes requests.
	nowhere
	// busy: every pod that does has as many as it is given.
	busy
)

// tries is what is known of one request's attempts.
type tries struct {
	// function is the newest that is known.
	function *Function
	// refusedBy are leases: an instance that refuses is passed over for its pod's
	// home agent.
	refusedBy []string
	// gone are home agents that failed, each for one of its pods. A pod that has
	// moved meanwhile has another.
	gone []homed
	// cold: a home agent was asked; away: one could not be reached.
	cold, away bool
}

// homed is a pod at one of its homes.
type homed struct{ podUID, address string }

// acquire picks the upstream of one request and counts the request there; the
// caller releases the choice when the request has ended.
//
// It is the instance with the fewest outstanding requests, a random one among
// equals, one of this process's node before others as long as it has few; never one
// that has as many as the policy gives it. A parked pod's home agent is asked when
// there is no such instance, or every one has much to do: always the first by UID,
// so that one pod is woken, not one by every request. What rests after a failure is
// passed over while there is anything else; then it is the pod's home agent that is
// asked, which knows more.
//
// It does not allocate. The node is this process's own.
func (f *Function) acquire(t *tries, node string) (choice, verdict) {
	limit := f.policy.concurrency
	// Others may want the last place in between, and nobody gets it. Who then stands in
	// line tries once more when its turn comes.
	for range 3 {
		picked, v := f.pick(t, node, limit)
		if v != chosen {
			return choice{}, v
		}
		if f.claim(picked, limit) {
			return picked, chosen
		}
	}
	return choice{}, busy
}

// claim counts the request at its choice, if there is still room.
func (f *Function) claim(c choice, limit int64) bool {
	c.endpoint().outstanding.Add(1)
	if limit == 0 || c.pod.load(c.instance) <= limit {
		return true
	}
	f.release(c)
	return false
}

// release ends a request's count.
func (f *Function) release(c choice) {
	c.endpoint().outstanding.Add(-1)
	f.state.queue.roomMade()
}

// load is how many requests of this process are at the instance, those that came by
// way of the home agent among them; without an instance, the latter.
func (p *Pod) load(i *Instance) int64 {
	n := p.home.outstanding.Load()
	if i != nil {
		n += i.outstanding.Load()
	}
	return n
}

func (f *Function) pick(t *tries, node string, limit int64) (choice, verdict) {
	var best choice
	var bestLoad int64
	var bestLocal, full bool
	var ties int
	var viaHome, resting *Pod
	for _, pod := range f.active {
		if t.passes(pod) {
			continue
		}
		usable := false // an instance, be it busy
		refused := false
		for _, instance := range pod.Instances {
			if slices.Contains(t.refusedBy, instance.Lease) {
				refused = true
				continue
			}
			if instance.resting() {
				continue
			}
			usable = true
			load := pod.load(instance)
			if limit > 0 && load >= limit {
				full = true
				continue
			}
			local := node != "" && pod.HomeNode == node && load < localUpTo
			switch {
			case best.pod == nil || local && !bestLocal || local == bestLocal && load < bestLoad:
				best, bestLoad, bestLocal, ties = choice{pod, instance}, load, local, 1
			case local == bestLocal && load == bestLoad:
				ties++
				if rand.IntN(ties) == 0 {
					best = choice{pod, instance}
				}
			}
		}
		switch {
		case usable:
		case limit > 0 && pod.load(nil) >= limit:
			full = true
		case !refused || pod.home.resting():
			// All that is known of it has failed of late.
			resting = cmp.Or(resting, pod)
		default:
			viaHome = cmp.Or(viaHome, pod)
		}
	}
	if best.pod == nil || bestLoad >= spillAt {
		for _, pod := range f.parked {
			switch {
			case t.passes(pod):
			case limit > 0 && pod.load(nil) >= limit:
				full = true
			case pod.home.resting():
				resting = cmp.Or(resting, pod)
			default:
				return choice{pod: pod}, chosen
			}
		}
	}
	switch {
	case best.pod != nil:
		return best, chosen
	case viaHome != nil:
		return choice{pod: viaHome}, chosen
	case full:
		return choice{}, busy
	case resting != nil:
		return choice{pod: resting}, chosen
	}
	return choice{}, nowhere
}

// passes says whether a pod's home agent has failed the request.
func (t *tries) passes(pod *Pod) bool {
	return slices.Contains(t.gone, homed{pod.UID, pod.HomeAddress})
}
