package warmpool

import (
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// An agent that leaves hands its pods over while it still serves them. Of each pod
// that is ready:
//
//  1. Another agent becomes its home, under a new epoch, and prepares it: parked,
//     or with a container if it is never parked. What is told of the pod, and its
//     route, are still those of the former home.
//  2. The new home says that the pod is ready. From now on the pod is what the new
//     home says, and its route leads there.
//  3. When every router has heard that, or has been waited for, the pod is withdrawn from its former home,
//     which lets requests in flight finish.
//
// So a pod may have containers at both for a while, and at least one of them
// answers at any time. A pod that is not ready has nothing to hand over: it just
// gets another home. One that nobody else takes stays.

// handOverAtOnce bounds how many pods are on their way from one agent, so
// that those who take them are not asked for everything at once.
const handOverAtOnce = 500

// former is the home that a pod leaves.
type former struct {
	node  string
	epoch *agentv1.Epoch
	// taken: the new home is ready; takenAt is when Tick first saw that, revision that
	// of the routes by then.
	taken    bool
	takenAt  time.Time
	revision uint64
	// next is what the new home has said meanwhile; nil: nothing.
	next *agentv1.PodStatus
}

// Leave says that the session's agent is about to end. Its pods are given to
// others; once that is done the session says farewell.
func (b *Books) Leave(s *Session, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.agents[s.node]; a != nil && a.session == s {
		a.leaving = true
		b.handOver(a, now)
	}
}

// handOverAll goes on with what Leave began.
func (b *Books) handOverAll(now time.Time) {
	for _, a := range b.agents {
		if a.leaving {
			b.handOver(a, now)
		}
	}
}

// handOver takes the next steps for the pods of an agent that leaves.
func (b *Books) handOver(a *agent, now time.Time) {
	s := a.session
	if s == nil || !s.synced || s.farewell != farewellUnsaid || !isClosed(b.settled) {
		return
	}
	onTheWay := 0
	heard := b.routes.Heard(now)
	for _, p := range sorted(a.formers) {
		switch f := p.former; {
		case !f.taken:
			onTheWay++
		case f.takenAt.IsZero():
			f.takenAt, f.revision = now, b.routes.Current()
		case heard >= f.revision:
			b.withdrawFormer(p)
		case now.Sub(f.takenAt) >= heardWithin:
			b.routes.giveUpOn(f.revision)
			b.withdrawFormer(p)
		}
	}
	for _, p := range sorted(a.pods) {
		if onTheWay >= handOverAtOnce {
			return
		}
		if !p.withdrawing && b.move(p) {
			onTheWay++
		}
	}
	if len(a.formers) == 0 {
		s.farewell = farewellDue
		wake(s.wake)
	}
}

// move gives a pod of an agent that leaves another home, if there is one.
func (b *Books) move(p *pod) bool {
	to, ok := Place(b.rng, b.candidates(p))
	if !ok {
		return false
	}
	from := p.node
	if p.former != nil && !p.former.taken {
		// Another agent that leaves still serves it; this one never has.
		p.former.next = nil
		b.renew(p, to)
		b.stray(from, p)
		return true
	}
	b.withdrawFormer(p)
	if isReady(p.status) {
		p.former = &former{node: from, epoch: p.epoch}
		b.agents[from].formers[p.uid()] = p
		b.renew(p, to)
		return true
	}
	b.renew(p, to)
	b.stray(from, p)
	b.synthesize(p, agentv1.PodState_POD_STATE_PREPARING, "Assigned", "the agent on node "+to+" prepares the pod")
	return true
}

// serving is where requests for the pod go: its home, or the former one until that
// is ready.
func (p *pod) serving() string {
	if p.former != nil && !p.former.taken {
		return p.former.node
	}
	return p.node
}

// hold keeps a status of a pod's new home back as long as it is not ready and the
// former home serves the pod. It reports whether it did.
func (p *pod) hold(status *agentv1.PodStatus) bool {
	f := p.former
	if f == nil || f.taken {
		return false
	}
	f.next, f.taken = status, isReady(status)
	return !f.taken
}

// reportFormer takes the word of a pod's former home, which counts until the new
// one is ready.
func (b *Books) reportFormer(p *pod, status *agentv1.PodStatus) {
	f := p.former
	switch {
	case status.GetState() == agentv1.PodState_POD_STATE_GONE:
		b.endFormer(p)
	case compareEpochs(status.GetEpoch(), f.epoch) != 0 || f.taken:
	case !isReady(status):
		b.withdrawFormer(p) // it has nothing to hand over any more
	default:
		b.show(p, status)
	}
}

// withdrawFormer ends a pod at its former home, if it has one.
func (b *Books) withdrawFormer(p *pod) {
	if f := p.former; f != nil {
		b.endFormer(p)
		b.stray(f.node, p)
	}
}

// endFormer forgets a pod's former home: the pod is what its home says, ready or
// not.
func (b *Books) endFormer(p *pod) {
	f := p.former
	p.former = nil
	if a := b.agents[f.node]; a != nil {
		delete(a.formers, p.uid())
	}
	switch {
	case f.taken:
	case f.next != nil:
		b.show(p, f.next)
		b.learn(p)
	case p.node != "":
		b.synthesize(p, agentv1.PodState_POD_STATE_PREPARING, "Assigned", "the agent on node "+p.node+" prepares the pod")
	default:
		b.explainWaiting(p)
	}
}

// forsake ends what an agent still serves for others: it is gone.
func (b *Books) forsake(a *agent) {
	for _, p := range sorted(a.formers) {
		b.endFormer(p)
	}
}

func isReady(status *agentv1.PodStatus) bool {
	state := status.GetState()
	return state == agentv1.PodState_POD_STATE_ACTIVE || state == agentv1.PodState_POD_STATE_PARKED
}
