package nodeagent

import (
	"sync"
	"time"
)

// evictIdle is how long a pod must have been without a request before it is
// parked ahead of its time because others wait for memory.
const evictIdle = time.Second

// evictions are instances that are being parked for the sake of others.
type evictions struct {
	mu    sync.Mutex
	going []eviction
}

type eviction struct {
	pod  *pod
	inst *instance
}

// makeRoom parks the pod that has been idle for the longest, if a request waits
// for memory and no other pod is on its way out for it. Containers that are only
// to fill the store wait without that: they must not drive out pods.
func (a *Agent) makeRoom() {
	e := &a.evictions
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := e.going[:0]
	for _, g := range e.going {
		if !g.over() {
			kept = append(kept, g)
		}
	}
	clear(e.going[len(kept):])
	e.going = kept
	if len(e.going) >= a.room.loadsWaiting()+int(a.acquiring.Load()) {
		return
	}
	var longest eviction
	most := evictIdle
	now := time.Now()
	for _, p := range a.pods.all() {
		if i := p.evictable(); i != nil {
			if idle := i.usage.idleFor(now); idle >= most {
				longest, most = eviction{p, i}, idle
			}
		}
	}
	if longest.inst == nil {
		return
	}
	select {
	case longest.inst.evict <- struct{}{}:
		e.going = append(e.going, longest)
		a.log.Info("a pod is parked early, because others wait for memory", "pod", longest.pod.spec.PodUID, "name", longest.pod.spec.PodName, "idle", most)
	default: // it has been told, and its supervisor is busy
	}
}

// over says that an instance is gone, or has gone back to work.
func (e eviction) over() bool {
	select {
	case <-e.inst.ended:
		return true
	default:
	}
	e.pod.mu.Lock()
	defer e.pod.mu.Unlock()
	return e.pod.current == e.inst
}

// evictable is the instance that serves the pod if it may be parked at all.
func (p *pod) evictable() *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stays || p.spec.IdleTimeout == 0 {
		return nil
	}
	return p.current
}
