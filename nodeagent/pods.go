package nodeagent

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// errStale: a newer assignment of the pod is known.
var errStale = errors.New("a newer epoch of the pod is known")

// errOldControlPlane: a control plane that was started later has been heard.
var errOldControlPlane = errors.New("the control plane is not the newest that this agent has heard")

// tombstoneAge is how long the epoch of a withdrawn pod is remembered, to
// refuse an older assignment that comes late.
const tombstoneAge = 10 * time.Minute

// pods are the pods this agent is home to. It is safe for concurrent use.
type pods struct {
	agent *Agent

	mu         sync.RWMutex
	byUID      map[string]*pod
	tombstones map[string]tombstone
	// made counts pods, so that a pod that comes back has a folder of its own.
	made int
	// adopted are containers of an earlier process that wait for their pods.
	adopted map[string]*outlived
	// closed: the agent ends; kept: and the control plane keeps its pods for the
	// next.
	closed, kept bool
	// generation is of the newest control plane heard: none before it is obeyed
	// (invariant I7).
	generation uint64
}

type tombstone struct {
	epoch Epoch
	until time.Time
}

func newPods(a *Agent) *pods {
	return &pods{agent: a, byUID: map[string]*pod{}, tombstones: map[string]tombstone{}, adopted: map[string]*outlived{}}
}

// get returns the pod of a UID, or nil.
func (ps *pods) get(uid string) *pod {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	return ps.byUID[uid]
}

// all returns every pod.
func (ps *pods) all() []*pod {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	all := make([]*pod, 0, len(ps.byUID))
	for _, p := range ps.byUID {
		all = append(all, p)
	}
	return all
}

// assign takes an assignment on. A newer epoch of the same work changes nothing
// that runs; other work replaces the pod. An older epoch is errStale. A pod that
// cannot be taken on is reported as failed, so that people see why.
func (ps *pods) assign(a *Assignment) error {
	err := ps.take(a, nil)
	if err != nil && !errors.Is(err, errStale) && !errors.Is(err, errWithdrawn) {
		ps.agent.outbox.tell(status{PodUID: a.PodUID, Epoch: a.Epoch, State: Failed, Failure: &failure{reason: ReasonAssignmentRefused, message: err.Error()}})
	}
	return err
}

// resume takes on an assignment of an earlier process.
func (ps *pods) resume(k kept) error { return ps.take(k.Assignment, &k) }

// take takes an assignment on; before is what an earlier process knew of the pod.
func (ps *pods) take(a *Assignment, before *kept) error {
	if err := a.validate(); err != nil {
		return err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return errWithdrawn
	}
	if t, ok := ps.tombstones[a.PodUID]; ok && a.Epoch.Compare(t.epoch) <= 0 {
		return fmt.Errorf("%w: pod %s, epoch %v, withdrawn at %v", errStale, a.PodUID, a.Epoch, t.epoch)
	}
	old := ps.byUID[a.PodUID]
	if old != nil {
		if held := old.status().Epoch; a.Epoch.Compare(held) < 0 {
			return fmt.Errorf("%w: pod %s, epoch %v, held %v", errStale, a.PodUID, a.Epoch, held)
		}
		deleted := old.isDeleted()
		if deleted && a.Epoch == old.status().Epoch {
			return nil // the control plane is about to say so again
		}
		if !deleted && old.spec.sameWork(a) {
			old.renew(a)
			ps.agent.snapshot.changed()
			ps.agent.changed(old)
			return nil
		}
	}
	p := &pod{
		agent: ps.agent, spec: a, work: workOf(a), epoch: a.Epoch, mounts: a.Mounts, life: newLifecycle(), meter: newMeter(time.Now()),
		instances: map[*instance]struct{}{}, allotment: newAllotment(ps.agent.cfg.limits(a.Resources)),
	}
	o := ps.adoptedBy(p)
	p.dir = ps.folder(p, o, before)
	if err := ps.agent.addresses.claim(p, o); err != nil {
		if o != nil {
			ps.agent.endOutlived(o)
		}
		return fmt.Errorf("pod %s: %w", a.PodUID, err)
	}
	p.log = ps.agent.logs.Pod(a.Namespace, a.PodName, a.PodUID)
	ps.byUID[a.PodUID] = p
	ps.generation = max(ps.generation, a.Epoch.Generation)
	delete(ps.tombstones, a.PodUID)
	if old != nil {
		ps.end(old, ps.agent.cfg.DrainGrace)
	}
	if o != nil || ps.agent.resumes && before != nil {
		p.resume(o, before)
	} else {
		p.begin()
	}
	ps.agent.snapshot.changed()
	ps.agent.changed(p)
	return nil
}

// withdraw ends an assignment. An older epoch than the one held is errStale;
// a pod that is not here is errWithdrawn.
func (ps *pods) withdraw(uid string, e Epoch, grace time.Duration) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p, err := ps.toWithdraw(uid, e)
	if err != nil {
		return err
	}
	ps.drop(p, e, grace)
	return nil
}

// toWithdraw is the pod that a withdrawal is about. The caller holds mu.
func (ps *pods) toWithdraw(uid string, e Epoch) (*pod, error) {
	p := ps.byUID[uid]
	if p == nil {
		ps.bury(uid, e)
		ps.agent.outbox.tell(status{PodUID: uid, Epoch: e, State: Gone})
		return nil, fmt.Errorf("%w: %s", errWithdrawn, uid)
	}
	if held := p.status().Epoch; e.Compare(held) < 0 {
		return nil, fmt.Errorf("%w: pod %s, withdrawal of epoch %v, held %v", errStale, uid, e, held)
	}
	return p, nil
}

// drop withdraws a pod that is here. The caller holds mu.
func (ps *pods) drop(p *pod, e Epoch, grace time.Duration) {
	ps.bury(p.spec.PodUID, e)
	delete(ps.byUID, p.spec.PodUID)
	ps.end(p, grace)
	ps.agent.snapshot.changed()
}

// hear takes note of a control plane that speaks. It is errOldControlPlane if
// a newer one has spoken: whatever the older one says of pods was true once.
func (ps *pods) hear(generation uint64) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if generation < ps.generation {
		return fmt.Errorf("%w: its generation is %d, the newest %d", errOldControlPlane, generation, ps.generation)
	}
	if generation > ps.generation {
		ps.generation = generation
		ps.agent.snapshot.changed()
	}
	return nil
}

// sync makes the assignments all there are: others are withdrawn. What cannot
// be taken on is left out and named in the error.
func (ps *pods) sync(assignments []*Assignment) error {
	keep := make(map[string]bool, len(assignments))
	for _, a := range assignments {
		keep[a.PodUID] = true
	}
	var errs []error
	for _, p := range ps.all() {
		if s := p.status(); !keep[s.PodUID] {
			errs = append(errs, ps.withdraw(s.PodUID, s.Epoch, ps.agent.cfg.DrainGrace))
		}
	}
	for _, a := range assignments {
		errs = append(errs, ps.assign(a))
	}
	ps.mu.Lock()
	ps.disown()
	ps.mu.Unlock()
	return errors.Join(append(errs, ps.removeLogs())...)
}

// removeLogs removes the logs of pods that were deleted while this agent was away.
func (ps *pods) removeLogs() error {
	ps.mu.RLock()
	defer ps.mu.RUnlock()
	if ps.closed {
		return nil // all logs look unused then
	}
	return ps.agent.logs.RemoveUnused()
}

// bury remembers the epoch of a withdrawn pod. The caller holds mu.
func (ps *pods) bury(uid string, e Epoch) {
	now := time.Now()
	for old, t := range ps.tombstones {
		if now.After(t.until) {
			delete(ps.tombstones, old)
		}
	}
	if t, ok := ps.tombstones[uid]; ok && e.Compare(t.epoch) < 0 {
		e = t.epoch // a late withdrawal must not let in what a newer one keeps out
	}
	ps.tombstones[uid] = tombstone{epoch: e, until: now.Add(tombstoneAge)}
}

// end withdraws a pod that is in no map any more and reports when it is gone. One
// that is deleted has no other home: it keeps its addresses as long as its container
// answers there. The caller holds mu.
func (ps *pods) end(p *pod, grace time.Duration) {
	deleted := p.withdraw(grace)
	if !deleted {
		ps.agent.addresses.release(p)
	}
	endLog, silent := p.log.Remove, ps.kept
	if ps.closed { // the next agent goes on with it
		endLog = func() error { p.log.Close(); return nil }
	}
	ps.agent.tasks.start(func() {
		p.gone()
		if deleted {
			ps.agent.addresses.release(p)
		}
		if !silent && ps.get(p.spec.PodUID) == nil {
			ps.agent.outbox.tell(p.status())
		}
		if err := errors.Join(p.clear(), endLog()); err != nil {
			ps.agent.log.Error("a withdrawn pod left something behind", "pod", p.spec.PodUID, "err", err)
		}
	})
}

// close withdraws every pod; none is taken on any more. They stay in the
// snapshot: whoever starts next without a control plane goes on with them. If the
// control plane keeps them for the next agent it is not told that they are gone.
func (ps *pods) close(grace time.Duration, kept bool) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.closed, ps.kept = true, kept
	ps.disown()
	for uid, p := range ps.byUID {
		delete(ps.byUID, uid)
		ps.end(p, grace)
	}
}
