package nodeagent

import (
	"context"
	"fmt"
	"time"

	"sanfran.dev/internal/failpoint"
)

// supervise starts the goroutine that sees an instance to its end. It reports
// false when the agent stops and takes no new work. The caller holds mu and the
// pod is not withdrawn.
func (p *pod) supervise(i *instance) bool {
	p.instances[i] = struct{}{}
	p.running.Add(1)
	started := p.agent.tasks.start(func() {
		defer p.running.Done()
		idleTimeout := p.spec.IdleTimeout
		if i.stays {
			idleTimeout = 0
		}
		c := i.watch(idleTimeout, func(idle time.Duration) bool { return p.park(i, idle) }, func(ctx context.Context) { p.agent.writeCompiled(ctx, i) })
		p.end(i, c)
	})
	if !started {
		delete(p.instances, i)
		p.running.Done()
	}
	return started
}

// park takes an instance out of service that has been idle for so long. A request
// that comes later finds the pod parked and gets a fresh container; one that came
// earlier has begun its use under the same lock, and the instance is not idle.
func (p *pod) park(i *instance, idle time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != i || i.usage.idleFor(time.Now()) < idle {
		return false
	}
	p.detach(i)
	p.life.parked()
	failpoint.Here("end: parked")
	return true
}

// end brings an instance from service to nothing. The order is what keeps
// every request served: first new connections to the pod's address lead to the
// agent, then routers hear that the container is out, then it refuses what
// still comes to it, and only when it has finished it goes.
func (p *pod) end(i *instance, c cause) {
	now := time.Now()
	if c == causeExited || c == causeBroken || c == causeBlocked {
		var f *failure
		if c == causeBlocked {
			f = p.endStuck(i.warm, i.leasedAt, i.blockedFailure())
		} else {
			f = i.exitFailure(c)
		}
		p.log.Crashed(i.warm.output.lines) // before another container may begin
		p.mu.Lock()
		if p.detach(i) {
			p.life.exited(f, now.Sub(i.leasedAt), now)
			if !p.containerEnded() {
				p.scheduleRetry(now)
				p.replace()
			}
			p.agent.log.Warn("a container ended by itself", "pod", p.spec.PodUID, "name", p.spec.PodName, "reason", f.reason, "message", f.message, "restarts", p.life.restarts())
		}
		p.mu.Unlock()
		i.fate.decide(f)
		p.agent.snapshot.changed()
		i.warm.kept.reached(stageEnding, nil)
	}
	switch c {
	case causeIdle:
		i.keepDraining(now.Add(p.agent.cfg.DrainGrace))
	case causeRetired:
		i.keepDraining(now.Add(i.grace))
	}
	p.agent.changed(p)
	if c == causeIdle {
		p.agent.log.Info("pod parked", "pod", p.spec.PodUID, "namespace", p.spec.Namespace, "name", p.spec.PodName, "container", i.warm.container.ID())
	}
	p.agent.metrics.instanceEnded(c)
	p.agent.warmers.Drain(i.warm)
	failpoint.Here("end: out of service")

	switch c {
	case causeIdle:
		if used, err := i.warm.container.MemoryInUse(p.agent.ctx); err == nil { // else it has just ended
			p.used.Store(used)
		}
		_, drained := p.drain(i, p.agent.cfg.DrainGrace)
		p.agent.linger(i, p.agent.cfg.RouteSettle)
		if drained {
			p.agent.writeCompiled(p.agent.ctx, i) // if there was no quiet moment
			p.agent.terminate(i, parkedTermGrace)
		}
		p.dispose(i)
	case causeRetired:
		until := now.Add(i.grace)
		listens, drained := p.drain(i, i.grace)
		finish := func() {
			p.agent.linger(i, p.routersSettle())
			if drained {
				p.agent.writeCompiled(p.agent.ctx, i)
				if !listens { // it ends at once
					p.unlead(i)
				}
				p.agent.terminate(i, max(time.Until(until), leastTermGrace))
			}
			p.dispose(i)
		}
		if listens {
			finish() // what the function does at its end is still the pod's doing
			break
		}
		// A pod that is deleted does not wait for routers; its container does,
		// and until it is no more the pod's volumes stay.
		p.remains.Add(1)
		p.agent.tasks.follow(func() {
			defer p.remains.Done()
			finish()
		})
	default:
		p.dispose(i)
	}
	p.mu.Lock()
	p.remember(i, time.Now())
	delete(p.instances, i)
	p.mu.Unlock()
}

// drain lets what runs finish. It reports whether the function listens for
// SIGTERM, and whether the worker has said that it has drained.
//
// A handler hears of SIGTERM when it has nothing left to do; a server, which
// closes its connections by itself then, as soon as routers know that it goes.
func (p *pod) drain(i *instance, grace time.Duration) (listens, drained bool) {
	conn := i.warm.conn
	settle := p.routersSettle()
	if conn.Server() && settle > 0 {
		// An error ends the connection, which is waited for below.
		early := time.AfterFunc(settle, func() { _ = conn.TerminateEarly() })
		defer early.Stop()
	}
	listens, err := i.drain(p.agent.ctx, grace, conn.Server() && settle <= 0)
	failpoint.Here("end: drained")
	exited := false
	select {
	case <-i.warm.container.Exited():
		exited = true
	default:
	}
	if err != nil && !exited {
		p.agent.log.Warn("a container did not drain", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
	}
	switch {
	case exited:
		i.fate.decide(exitFailure(i.warm, i.leasedAt))
	case i.usage.inFlight():
		i.fate.decide(&failure{reason: ReasonGracePeriodOver, message: fmt.Sprintf(
			"the request had not been answered when its container had to end, after %v of grace", grace)})
	}
	return listens, err == nil
}

const (
	// parkedTermGrace is how long the listeners of SIGTERM have when a pod is
	// parked; leastTermGrace is how long they have at least when it is deleted,
	// as with the kubelet when other work took the grace period.
	parkedTermGrace = 5 * time.Second
	leastTermGrace  = 2 * time.Second
)

// terminate makes a drained container end as SIGTERM would, and waits for that
// within grace.
func (a *Agent) terminate(i *instance, grace time.Duration) {
	failpoint.Here("end: lingered")
	if err := i.warm.conn.Terminate(); err != nil {
		grace = min(grace, exitGrace) // it is ending by itself, or cannot be spoken to
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-i.warm.container.Exited():
	case <-timer.C:
		a.log.Info("a container goes on after SIGTERM and is killed", "container", i.warm.container.ID(), "grace", grace)
	case <-a.ctx.Done():
	}
}

// linger keeps a drained container at refusing requests until routers have
// heard that it is out of service. Without that, a request that a router has
// just written to a connection it kept is reset with the container, and must
// not be sent again (I4), while a refusal sends it to the home agent.
func (a *Agent) linger(i *instance, settle time.Duration) {
	timer := time.NewTimer(settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-i.warm.container.Exited():
	case <-a.ctx.Done():
	}
}

// dispose destroys an instance of the pod, after the last look at what it used.
func (p *pod) dispose(i *instance) {
	p.unlead(i)
	p.meter.end(p.agent.ctx, i)
	p.agent.dispose(i)
}

// dispose destroys a leased container. Connections that were still in its
// queue are taken over; its port rests until no router can believe in it.
func (a *Agent) dispose(i *instance) {
	i.warm.kept.reached(stageEnding, nil)
	a.forwarder.Withdraw(i.address())
	defer func() {
		i.releaseCompiled()
		if i.allotment != nil {
			if err := i.allotment.leave(i); err != nil {
				a.log.Error("the memory of an ended container", "container", i.warm.container.ID(), "err", err)
			}
		}
		close(i.ended)
		a.room.freed()
	}()
	ctx := context.WithoutCancel(a.ctx)
	for delay := 100 * time.Millisecond; ; delay *= 2 {
		err := i.warm.destroy(ctx)
		if err == nil {
			break
		}
		a.log.Error("a container is not destroyed", "container", i.warm.container.ID(), "err", err)
		if delay > 2*time.Second {
			// The port stays withheld for ever: something may still own it.
			a.log.Error("a container is given up; the next start of the agent removes it", "container", i.warm.container.ID())
			return
		}
		time.Sleep(delay)
	}
	failpoint.Here("end: destroyed")
	a.warmers.Done(i.warm)
	a.takeOver(i)
	failpoint.Here("end: queue taken over")
	if err := a.quarantine.put(i.warm.socket); err != nil {
		a.log.Error("the socket of an ended lease", "err", err)
	}
	i.warm.kept.forget() // the port is kept by itself from here on
}
