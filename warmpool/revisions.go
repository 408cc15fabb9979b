package warmpool

import agentv1 "sanfran.dev/proto/sanfran/agent/v1"

// The first pod of a revision is activated when it is created, so that code
// which does not load is seen at once. The others wait for it, and begin
// parked once it has loaded: a thousand pods of a proved revision start no
// container, and a thousand of a broken one fail once. Programs that listen by
// themselves are not parked, unless they have opted in, and do not begin so.

// join adds the pod to its revision.
func (b *Books) join(p *pod) {
	id := p.want.GetRevision()
	r, ok := b.revisions[id]
	if !ok {
		r = &revision{pods: make(map[string]*pod)}
		b.revisions[id] = r
	}
	r.pods[p.uid()] = p
}

// leave takes the pod out of its revision; another becomes the prover.
func (b *Books) leave(p *pod) {
	id := p.want.GetRevision()
	r := b.revisions[id]
	delete(r.pods, p.uid())
	if r.prover == p.uid() {
		r.prover, r.failure = "", nil
	}
	if len(r.pods) == 0 {
		delete(b.revisions, id)
	}
}

// mayTry says whether the pod may be given to an agent now, and makes it the
// prover when its revision has none.
func (b *Books) mayTry(p *pod) bool {
	r := b.revisions[p.want.GetRevision()]
	if !r.proved && r.prover == "" {
		r.prover = p.uid()
	}
	return r.proved || r.prover == p.uid()
}

// startsParked says whether a further pod of the revision begins without a
// container.
func (r *revision) startsParked() bool { return r.proved && !r.stays }

// learn takes from a pod's reported status what it says of its revision. It
// returns whether pods that waited may be tried now.
func (b *Books) learn(p *pod) bool {
	r := b.revisions[p.want.GetRevision()]
	switch p.status.GetState() {
	case agentv1.PodState_POD_STATE_ACTIVE, agentv1.PodState_POD_STATE_PARKED:
		r.stays = r.stays || p.status.GetStays()
		if r.proved {
			return false
		}
		r.proved, r.prover, r.failure = true, "", nil
		return true
	case agentv1.PodState_POD_STATE_FAILED:
		if r.prover != p.uid() {
			return false
		}
		r.failure = p.status
		for _, other := range r.pods {
			if other.node == "" && !other.withdrawing {
				b.explainWaiting(other)
			}
		}
	}
	return false
}
