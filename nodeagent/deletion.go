package nodeagent

import "time"

// A pod that Kubernetes deletes is not called by Services any more when every node's
// kube-proxy has heard of it, and that is later than its agent has: kube-proxy alone
// changes its rules at most once in a second. A kubelet's pod answers meanwhile,
// because its program has the grace period to end in. So a pod that is deleted is
// served as ever, waking for requests too, until nothing new has come to it for
// EndpointSettle. Only then is it withdrawn; what is in flight then has the rest of
// the grace period.

// leastDrain is how long before the end of its grace period a pod is withdrawn at the
// latest, to which new requests come without a pause; of a short grace period it is a
// quarter.
const leastDrain = 2 * time.Second

// deletion is the last time of a pod that Kubernetes deletes. Its pod's mutex guards
// it.
type deletion struct {
	epoch Epoch
	// begun is when the agent heard of it, until when the grace period is over.
	begun, until time.Time
	// came is when a request last came to this agent for the pod.
	came time.Time
	// ended: the container has ended, and there is no other after it.
	ended bool
	// changed receives after what decides on its end has changed.
	changed chan struct{}
	// over is closed when the pod is withdrawn.
	over chan struct{}
}

// delete ends an assignment whose pod Kubernetes deletes, when it has been served for
// as long as others may not know of that. Its errors are those of withdraw.
func (ps *pods) delete(uid string, e Epoch, grace time.Duration) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p, err := ps.toWithdraw(uid, e)
	if err != nil {
		return err
	}
	if !p.delete(e, grace, func() { ps.deleted(p) }) {
		ps.drop(p, e, grace)
	}
	return nil
}

// deleted withdraws a pod whose deletion is at its end, unless it was withdrawn by
// others.
func (ps *pods) deleted(p *pod) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.byUID[p.spec.PodUID] != p {
		return
	}
	p.mu.Lock()
	e, left := p.deletion.epoch, time.Until(p.deletion.until)
	p.mu.Unlock()
	ps.drop(p, e, max(left, 0))
}

// delete begins the pod's deletion and has end called when it is over. It reports
// false if the pod serves nobody, so that there is nothing to wait for. Said again, it
// can only shorten the grace period.
func (p *pod) delete(e Epoch, grace time.Duration, end func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if d := p.deletion; d != nil {
		d.epoch = e
		if until := now.Add(grace); until.Before(d.until) {
			d.until = until
			d.signal()
		}
		return true
	}
	if !p.life.ready() || grace <= 0 || p.agent.cfg.EndpointSettle <= 0 {
		return false
	}
	d := &deletion{epoch: e, begun: now, until: now.Add(grace), changed: make(chan struct{}, 1), over: make(chan struct{})}
	p.deletion = d
	if p.current != nil {
		// It says whether the function listens for SIGTERM. An error ends the
		// connection, which its supervisor sees.
		_ = p.current.warm.conn.Ping()
	}
	return p.agent.tasks.start(func() {
		if p.waitDeleted(d) {
			end()
		}
	})
}

// waitDeleted waits for the end of a deletion; false: the pod was withdrawn before.
func (p *pod) waitDeleted(d *deletion) bool {
	for {
		p.mu.Lock()
		left := p.servedFor(d, time.Now())
		p.mu.Unlock()
		if left <= 0 {
			return true
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-d.changed:
		case <-d.over:
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// servedFor is for how long a pod that is deleted is still served, as far as is known.
// The caller holds mu.
func (p *pod) servedFor(d *deletion, now time.Time) time.Duration {
	if d.ended {
		return 0
	}
	came, listens := d.came, false
	if p.current != nil {
		listens = p.current.warm.conn.Activity().SIGTERM
		if at := p.current.usage.lastCame(); at.After(came) {
			came = at
		}
	}
	if came.Before(d.begun) {
		came = d.begun
	}
	return d.end(came, listens, p.agent.cfg.EndpointSettle).Sub(now)
}

// end is when a pod is withdrawn to which something new last came then. A function
// that listens for SIGTERM has half of the grace period for that at least.
func (d *deletion) end(came time.Time, listens bool, settle time.Duration) time.Time {
	grace := d.until.Sub(d.begun)
	latest := d.until.Add(-min(grace/4, leastDrain))
	if listens {
		latest = d.begun.Add(grace / 2)
	}
	if quiet := came.Add(settle); quiet.Before(latest) {
		return quiet
	}
	return latest
}

// containerEnded notes that the container of a pod has ended by itself: if the pod is
// being deleted, which it reports, no other is started. The caller holds mu.
func (p *pod) containerEnded() bool {
	if p.deletion == nil {
		return false
	}
	p.deletion.ended = true
	p.deletion.signal()
	return true
}

func (d *deletion) signal() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// routersSettle is how long routers may still send requests to a container that is
// out of service: of a pod that is deleted they have heard when that began.
func (p *pod) routersSettle() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	settle := p.agent.cfg.RouteSettle
	if p.deletion != nil {
		settle -= time.Since(p.deletion.begun)
	}
	return settle
}
