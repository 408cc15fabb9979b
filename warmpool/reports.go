package warmpool

import (
	"maps"
	"slices"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// ReportPod takes an agent's word on one of its pods. What it says of a pod
// that is not its own, or of an older epoch, changes nothing; if it still
// holds such a pod it is told to drop it.
func (b *Books) ReportPod(s *Session, status *agentv1.PodStatus, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.agents[s.node]
	if a == nil || a.session != s {
		return
	}
	gone := status.GetState() == agentv1.PodState_POD_STATE_GONE
	p := b.pods[status.GetPodUid()]
	if p != nil && p.former != nil && p.former.node == s.node {
		b.reportFormer(p, status)
		return
	}
	if p == nil || p.node != s.node {
		if !gone && s.synced {
			s.strays[status.GetPodUid()] = &agentv1.Withdrawal{PodUid: status.GetPodUid(), Epoch: status.GetEpoch()}
			b.queue(s.node, status.GetPodUid())
		}
		return
	}
	if order := compareEpochs(status.GetEpoch(), p.epoch); order != 0 {
		if order < 0 && gone && p.withdrawing {
			// It let go of the pod as it knew it, before it heard of the newer
			// epoch. Asked again, it answers under that one.
			b.queue(s.node, p.uid())
		}
		return
	}
	switch {
	case gone && p.withdrawing:
		b.finish(p)
		b.placeWaiting()
		return
	case gone:
		// Nobody asked for that: the pod still exists, so it needs a home.
		a.leaving = true
		b.unhome(p)
		b.waiting[p.uid()] = p
		b.placeWaiting()
		return
	}
	lease := status.GetInstance().GetLeaseId()
	if lease != "" && lease != p.status.GetInstance().GetLeaseId() {
		runtime := p.want.GetRuntime()
		if a.arrivals[runtime] == nil {
			a.arrivals[runtime] = &arrivals{}
		}
		a.arrivals[runtime].add(now)
	}
	b.setStatus(p, status)
	if b.learn(p) {
		b.placeWaiting()
	}
}

// ReportPool takes an agent's word on its pool of one runtime.
func (b *Books) ReportPool(s *Session, status *agentv1.PoolStatus) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.agents[s.node]; a != nil && a.session == s {
		a.pools[status.GetRuntime()] = status
		a.promised[status.GetRuntime()] = 0
	}
}

// resize sets the agents' pool targets by what has been leased lately.
func (b *Books) resize(now time.Time) {
	if b.sizing.Floor == 0 && b.sizing.Max == 0 {
		return // the agents' own targets stand
	}
	for _, a := range b.agents {
		if a.session == nil || !a.session.synced {
			continue
		}
		for _, runtime := range a.hello.GetRuntimes() {
			peak := 0.0
			if seen := a.arrivals[runtime]; seen != nil {
				peak = seen.peak(now)
			}
			target := b.sizing.Target(runtime, a.uses(runtime), peak)
			if old, ok := a.targets[runtime]; ok && old == target {
				continue
			}
			a.targets[runtime] = target
			a.session.targets[runtime] = target
			wake(a.session.wake)
		}
	}
}

// Capacity is the sum of what agents give to functions, and a channel that is
// closed when it has changed. An agent counts until it is presumed gone.
func (b *Books) Capacity() (*agentv1.Capacity, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	total := &agentv1.Capacity{}
	for _, a := range b.agents {
		c := a.hello.GetCapacity()
		total.MilliCpu += c.GetMilliCpu()
		total.MemoryBytes += c.GetMemoryBytes()
		total.Pods += c.GetPods()
	}
	return total, b.capacity
}

func (b *Books) capacityChanged() {
	close(b.capacity)
	b.capacity = make(chan struct{})
}

// AgentView is one agent as the books see it.
type AgentView struct {
	Node      string
	Connected bool
	Pods      int
	Capacity  *agentv1.Capacity
	Runtimes  []string
	Pools     []*agentv1.PoolStatus
}

// Agents returns all agents, in no order.
func (b *Books) Agents() []AgentView {
	b.mu.Lock()
	defer b.mu.Unlock()
	views := make([]AgentView, 0, len(b.agents))
	for _, a := range b.agents {
		v := AgentView{Node: a.node, Connected: a.session != nil, Pods: len(a.pods), Capacity: a.hello.GetCapacity(), Runtimes: a.hello.GetRuntimes()}
		for _, pool := range a.pools {
			v.Pools = append(v.Pools, pool)
		}
		views = append(views, v)
	}
	return views
}

// Pools are what connected agents last said of their stores of warm containers, by
// node, in the order of their runtimes. Nobody changes the messages.
func (b *Books) Pools() map[string][]*agentv1.PoolStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	pools := make(map[string][]*agentv1.PoolStatus)
	for _, a := range b.agents {
		if a.session == nil {
			continue
		}
		for _, runtime := range slices.Sorted(maps.Keys(a.pools)) {
			pools[a.node] = append(pools[a.node], a.pools[runtime])
		}
	}
	return pools
}

// PodStates counts the pods by state; those nothing is known of yet are
// POD_STATE_UNSPECIFIED.
func (b *Books) PodStates() map[agentv1.PodState]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	counts := make(map[agentv1.PodState]int)
	for _, p := range b.pods {
		counts[p.status.GetState()]++
	}
	return counts
}
