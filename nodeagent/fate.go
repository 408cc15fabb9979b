package nodeagent

import (
	"context"
	"sync"
	"time"

	"sanfran.dev/router"
)

// fate is why an instance's container ended, for those whose requests it cut
// off. It is safe for concurrent use.
type fate struct {
	once  sync.Once
	known chan struct{}
	why   *failure
}

func newFate() *fate { return &fate{known: make(chan struct{})} }

// decide makes the failure known; what is decided first counts.
func (f *fate) decide(why *failure) {
	f.once.Do(func() {
		f.why = why
		close(f.known)
	})
}

const (
	// dyingWait is how long a container whose connection broke is given to show
	// that it ends. The kernel closes its control socket with its connections;
	// a function that closed the connection by itself has a container that lives.
	dyingWait = 100 * time.Millisecond
	// fateWait is how long it may then take to know why.
	fateWait = exitGrace + time.Second
	// fatesKept is how many ends of containers a pod remembers, each for fateAge.
	fatesKept = 4
	fateAge   = 10 * time.Second
)

// explain says what a caller is told whose request the container broke off, or
// nil if the container has not ended.
func (i *instance) explain(ctx context.Context) *router.Problem {
	dying := time.NewTimer(dyingWait)
	defer dying.Stop()
	select {
	case <-i.fate.known:
	case <-i.warm.conn.Done():
	case <-i.warm.container.Exited():
	case <-dying.C:
		return nil
	case <-ctx.Done():
		return nil
	}
	late := time.NewTimer(fateWait)
	defer late.Stop()
	select {
	case <-i.fate.known:
		return cutOff(i.fate.why)
	case <-late.C:
	case <-ctx.Done():
	}
	return nil
}

// remember keeps the fate of an instance that has ended, if there is something
// to tell of it. The caller holds mu.
func (p *pod) remember(i *instance, now time.Time) {
	kept := p.fates[:0]
	for _, k := range p.fates {
		if now.Before(k.until) {
			kept = append(kept, k)
		}
	}
	p.fates = kept
	select {
	case <-i.fate.known:
	default:
		return
	}
	if len(p.fates) == fatesKept {
		p.fates = p.fates[:copy(p.fates, p.fates[1:])]
	}
	p.fates = append(p.fates, keptFate{i.lease, i.fate.why, now.Add(fateAge)})
}

// keptFate is why the container of a lease ended.
type keptFate struct {
	lease string
	why   *failure
	until time.Time
}

// explain is what the caller of a request is told that the container of a lease
// broke off; nil if there is nothing to tell.
func (p *pod) explain(ctx context.Context, lease string) *router.Problem {
	p.mu.Lock()
	for _, k := range p.fates {
		if k.lease == lease {
			p.mu.Unlock()
			return cutOff(k.why)
		}
	}
	for i := range p.instances {
		if i.lease == lease {
			p.mu.Unlock()
			return i.explain(ctx)
		}
	}
	p.mu.Unlock()
	return nil
}

// cutOff is the problem of a request that was in flight when the failure came.
func cutOff(why *failure) *router.Problem {
	problem := why.problem()
	problem.Message += "; the request may have been executed and was not sent again"
	return &problem
}
