package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/logs"
)

var (
	// errWithdrawn: the pod is not (any more) at this agent.
	errWithdrawn = errors.New("the pod is not at this agent")
	// errQueueFull: too many requests wait for the pod already.
	errQueueFull = errors.New("too many requests wait for the pod")
	// errQueueTimeout: the pod was not active in time.
	errQueueTimeout = errors.New("the pod was not active in time")
)

// pod is one function pod this agent is home to. Whatever needs a container
// asks lease; at most one attempt to get one is under way, however many wait.
type pod struct {
	agent *Agent
	// dir is the pod's folder for volumes.
	dir string
	// spec is the assignment the pod began with. What it asks for never
	// changes, but for its epoch and the content of its files: see below.
	spec *Assignment
	// work is a digest of what spec asks for.
	work string
	log  *logs.Log
	// meter counts what its containers use.
	meter *meter
	// running is the pod's goroutines: attempts, and supervisors of instances. It
	// grows under mu, and only while the pod is not withdrawn.
	running sync.WaitGroup
	// remains are containers that have drained and are not destroyed yet. It
	// grows only while running is not done.
	remains sync.WaitGroup
	// filling is held while volumes are made or their files written anew. It
	// is taken before mu.
	filling sync.Mutex
	// allotment is how the pod's memory is divided between its containers.
	allotment *allotment
	// used is what its last container used when it was parked, in bytes; 0: not
	// known.
	used atomic.Int64

	mu    sync.Mutex
	epoch Epoch
	// mounts are the newest assignment's.
	mounts    []PodMount
	life      lifecycle
	withdrawn bool
	// stays: what it runs is never parked; known once a container has loaded it.
	stays bool
	// volumes is nil until the pod is prepared.
	volumes *volumes
	// deletion is not nil once Kubernetes deletes the pod.
	deletion *deletion
	// current serves the pod; nil unless Active.
	current *instance
	// last is the container of a pod that was deleted, while its address still leads
	// there.
	last *instance
	// instances are all that live, those that drain included.
	instances map[*instance]struct{}
	// fates are instances that ended not long ago.
	fates []keptFate
	// attempt is the preparation or activation under way.
	attempt *attempt
	// waiting counts requests that wait for an attempt.
	waiting int
	retry   *time.Timer
}

// attempt is one try to bring a pod to where it answers.
type attempt struct {
	// activate: get a container. Otherwise only prepare what it mounts.
	activate bool
	// needed attempts go on when nobody waits for them (any more).
	needed  bool
	waiters int
	cancel  context.CancelFunc
	// done is closed when the attempt is over; err is why it failed.
	done chan struct{}
	err  error
}

// status is a pod as it is reported.
type status struct {
	PodUID   string
	Epoch    Epoch
	State    State
	Failure  *failure
	Instance *instance
	Restarts int
	// Last is how the last container ended that ended by itself; nil: none has.
	Last      *termination
	StartedAt time.Time
	// Stays: the pod is never parked.
	Stays bool
	// Withdrawn pods are of no interest until they are Gone.
	Withdrawn bool
}

func (p *pod) status() status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := status{
		PodUID: p.spec.PodUID, Epoch: p.epoch, State: p.life.state, Instance: p.current,
		Restarts: p.life.restarts(), Last: p.life.last, StartedAt: p.life.startedAt, Stays: p.stays, Withdrawn: p.withdrawn,
	}
	if p.life.state == Failed {
		s.Failure = p.life.failure
	}
	return s
}

// begin starts the pod's life at this agent.
func (p *pod) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.try(!p.spec.StartParked, true)
}

// renew takes over a newer assignment of the same work.
func (p *pod) renew(a *Assignment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch = a.Epoch
	if p.withdrawn || reflect.DeepEqual(p.mounts, a.Mounts) {
		return
	}
	p.mounts = a.Mounts
	p.running.Add(1)
	if !p.agent.tasks.start(func() { defer p.running.Done(); p.refill() }) {
		p.running.Done()
	}
}

// try starts an attempt. The caller holds mu and has seen that none is under
// way.
func (p *pod) try(activate, needed bool) {
	if p.withdrawn {
		return
	}
	if p.retry != nil {
		p.retry.Stop()
		p.retry = nil
	}
	ctx, cancel := context.WithCancel(p.agent.ctx)
	at := &attempt{activate: activate, needed: needed, cancel: cancel, done: make(chan struct{})}
	p.running.Add(1)
	started := p.agent.tasks.start(func() {
		defer p.running.Done()
		defer cancel()
		p.run(ctx, at)
	})
	if !started {
		p.running.Done()
		cancel()
		return
	}
	p.attempt = at
}

// run is an attempt's goroutine.
func (p *pod) run(ctx context.Context, at *attempt) {
	inst, err := p.makeReady(ctx, at)
	now := time.Now()

	p.mu.Lock()
	proved := !p.life.startedAt.IsZero()
	if err == nil && inst != nil && p.withdrawn {
		err = errWithdrawn
	}
	var orphan *instance
	switch {
	case err == nil && inst == nil:
		p.life.prepared(now)
	case err == nil && !p.supervise(inst):
		orphan, err = inst, errWithdrawn
	case err == nil:
		p.current, p.stays = inst, inst.stays
		p.life.activated(now)
	default:
		orphan = inst
		p.settle(err, now)
	}
	p.attempt = nil
	at.err = err
	provedNow := !proved && !p.life.startedAt.IsZero()
	failed := p.life.state == Failed
	life := p.life.keep()
	p.mu.Unlock()

	failpoint.Here("activate: attempt over")
	close(at.done)
	if err == nil && inst != nil { // before anybody else hears of it
		inst.keepActive(life)
	}
	if provedNow || failed {
		p.agent.snapshot.changed()
	}
	p.agent.changed(p)
	if err == nil && inst != nil {
		p.agent.log.Info("pod active", "pod", p.spec.PodUID, "namespace", p.spec.Namespace, "name", p.spec.PodName, "container", inst.warm.container.ID())
	}
	if orphan != nil {
		p.dispose(orphan)
		if asFailure(err) != nil {
			p.log.Crashed(orphan.warm.output.lines)
		}
	}
}

// settle decides what a failed attempt means. The caller holds mu.
func (p *pod) settle(err error, now time.Time) {
	f := asFailure(err)
	switch {
	case p.withdrawn || p.agent.ctx.Err() != nil:
		return
	case f == nil && p.life.ready() && !p.stays:
		// No container to be had now, which is not the function's fault: the
		// pod stays parked, and its next request tries again.
		p.agent.log.Warn("no container for a parked pod", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
		return
	case f == nil && errors.Is(err, context.Canceled):
		return // nobody waited any more
	case f == nil:
		f = &failure{reason: ReasonContainerStartFailed, message: err.Error()}
	}
	p.life.failed(f, now)
	p.agent.log.Info("pod failed", "pod", p.spec.PodUID, "name", p.spec.PodName, "reason", f.reason, "message", f.message, "retryIn", p.life.retryAt.Sub(now))
	p.scheduleRetry(now)
}

// scheduleRetry makes a failed pod try again. The caller holds mu.
func (p *pod) scheduleRetry(now time.Time) {
	if p.life.state != Failed || p.withdrawn {
		return
	}
	p.retry = time.AfterFunc(p.life.retryAt.Sub(now), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.life.state == Failed && p.attempt == nil {
			p.try(true, true)
		}
	})
}

// replace gets a pod that is never parked a container in place of one that ended
// by itself and is forgiven. The caller holds mu.
func (p *pod) replace() {
	if p.stays && p.life.state == Parked && p.attempt == nil {
		p.try(true, true)
	}
}

// parked reports whether a request would have to wait for a container.
func (p *pod) parked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current == nil
}

// lease returns an instance that serves the pod, with one use of it begun: the
// caller ends it with instance.usage.end. If the pod is parked, it is activated
// for the caller and everybody else who asks meanwhile.
//
// Its errors: errWithdrawn, errQueueFull, errQueueTimeout, a *failure when the
// function does not load, ctx's, or what kept the agent from making a container.
func (p *pod) lease(ctx context.Context) (*instance, error) {
	p.mu.Lock()
	if p.deletion != nil {
		p.deletion.came = time.Now()
	}
	if p.current != nil { // the short way, without a timer
		defer p.mu.Unlock()
		p.current.usage.begin()
		return p.current, nil
	}
	defer p.mu.Unlock()
	if p.waiting >= p.agent.cfg.QueueLength {
		return nil, errQueueFull
	}
	p.waiting++
	defer func() { p.waiting-- }()
	ctx, cancel := context.WithTimeoutCause(ctx, p.agent.cfg.QueueTimeout, errQueueTimeout)
	defer cancel()
	for {
		switch {
		case p.withdrawn:
			return nil, errWithdrawn
		case p.current != nil:
			p.current.usage.begin()
			return p.current, nil
		case p.attempt == nil && p.life.state == Failed:
			return nil, p.life.failure
		case p.attempt == nil:
			p.try(true, false)
			if p.attempt == nil {
				return nil, errWithdrawn // the agent stops
			}
		}
		at := p.attempt
		if err := p.await(ctx, at); err != nil {
			return nil, err
		}
		if errors.Is(at.err, context.Canceled) && p.agent.ctx.Err() == nil {
			continue // the attempt was ended just before this request joined it
		}
		if at.err != nil {
			return nil, at.err
		}
	}
}

// await waits for an attempt with mu released meanwhile. When the last waiter
// of an attempt that nobody else needs gives up, the attempt is ended.
func (p *pod) await(ctx context.Context, at *attempt) error {
	at.waiters++
	p.mu.Unlock()
	var err error
	select {
	case <-at.done:
	case <-ctx.Done():
		err = fmt.Errorf("wait for the pod: %w", context.Cause(ctx))
	}
	p.mu.Lock()
	at.waiters--
	if err != nil && at.waiters == 0 && !at.needed {
		at.cancel()
	}
	return err
}

// detach takes the instance out of service and reports whether it was in it.
// The caller holds mu and decides the pod's new state.
func (p *pod) detach(i *instance) bool {
	if p.current != i {
		return false
	}
	p.current = nil
	return true
}

// withdraw ends the pod's life at this agent: it serves nobody new from now on;
// what runs may finish within grace. It returns at once; wait for gone. It reports
// whether Kubernetes deletes the pod: then its last container goes on answering
// whoever connects to the pod's address.
func (p *pod) withdraw(grace time.Duration) (deleted bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	deleted = p.deletion != nil
	if p.withdrawn {
		return deleted
	}
	p.withdrawn = true
	if deleted {
		close(p.deletion.over)
		p.last = p.current
	}
	p.current = nil
	if p.retry != nil {
		p.retry.Stop()
	}
	if p.attempt != nil {
		p.attempt.cancel()
	}
	for i := range p.instances {
		i.retire(grace)
	}
	return deleted
}

// unlead has the pod's address lead to the agent, where it leads to the instance of a
// pod that was deleted.
func (p *pod) unlead(i *instance) {
	p.mu.Lock()
	led := p.last == i
	if led {
		p.last = nil
	}
	p.mu.Unlock()
	if led {
		p.agent.addresses.refresh(p)
	}
}

// isDeleted reports whether Kubernetes deletes the pod.
func (p *pod) isDeleted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.deletion != nil
}

// gone waits until a withdrawn pod serves nobody any more. Its last containers
// may still refuse what routers send them.
func (p *pod) gone() {
	p.running.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.life.state = Gone
}

// clear waits until nothing is left of a gone pod's containers, and removes its
// volumes: not before, or hostile code could go on filling the folder while it
// is being deleted.
func (p *pod) clear() error {
	p.remains.Wait()
	p.mu.Lock()
	v := p.volumes
	p.volumes = nil
	p.mu.Unlock()
	if v == nil {
		return nil
	}
	return v.remove()
}
