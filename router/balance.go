package router

import "math/rand/v2"

// spillAt is how many requests of this process a pod's container has in flight
// before a parked pod of the same function is woken for the next one. One
// Node.js process serves many requests at a time, but not any number: at a few
// dozen in flight the wait in its event loop costs more than an activation.
const spillAt = 32

// choice is where a request goes: to an instance, or, when instance is nil, to
// the home agent of a pod.
type choice struct {
	pod      *Pod
	instance *Instance
}

// choose picks the upstream of one request: the instance with the fewest
// outstanding requests, a random one among equals; a parked pod's home agent
// when there is no instance or every instance is busy. Pods for which skip is
// true are passed over. It reports false when no pod is left.
func (f *Function) choose(skip func(*Pod) bool) (choice, bool) {
	var best choice
	var bestLoad int64
	var ties int
	var parked *Pod
	for _, pod := range f.Pods {
		if !pod.Ready || skip(pod) {
			continue
		}
		if len(pod.Instances) == 0 && parked == nil {
			parked = pod
		}
		for _, instance := range pod.Instances {
			load := instance.Outstanding()
			switch {
			case best.pod == nil || load < bestLoad:
				best, bestLoad, ties = choice{pod, instance}, load, 1
			case load == bestLoad:
				ties++
				if rand.IntN(ties) == 0 {
					best = choice{pod, instance}
				}
			}
		}
	}
	if parked != nil && (best.pod == nil || bestLoad >= spillAt) {
		return choice{pod: parked}, true
	}
	return best, best.pod != nil
}
