package warmpool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

const (
	// silentFor is how long a connected agent may be silent before it is
	// presumed gone. The server hears a healthy one every second.
	silentFor = 3 * time.Second
	// reconnectWithin is how long an agent whose stream has ended may take to
	// open another. An agent process restarts in less; a killed agent pod's
	// functions must answer elsewhere within three seconds of its death.
	reconnectWithin = 2 * time.Second
	// settleWithin is how long after its start the control plane waits for the
	// agents it knows, or may have known, before it gives their pods away.
	settleWithin = 5 * time.Second
	// massSilenceHold is how long nobody is presumed gone while more than half
	// of the agents are silent: then it is rather this control plane that is
	// cut off.
	massSilenceHold = 30 * time.Second
)

// Resynced says that every pod that exists has been assigned. Agents receive
// Sync from then on; earlier it would tell them to drop pods that live.
func (b *Books) Resynced(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if isClosed(b.resynced) {
		return
	}
	close(b.resynced)
	for uid := range b.ledger {
		if b.pods[uid] == nil {
			delete(b.ledger, uid)
			b.homeChanges[uid] = Home{}
			wake(b.homeWake)
		}
	}
	b.settle(now)
}

// ResyncedDone is closed once Resynced was called.
func (b *Books) ResyncedDone() <-chan struct{} { return b.resynced }

// Settled is closed once the books are as good as they get after a start:
// every agent the ledger knows has spoken, or has had its time. Routes are not
// worth telling before.
func (b *Books) Settled() <-chan struct{} { return b.settled }

// Tick does what is due by now: settling, presuming silent agents gone, and
// setting the agents' pool targets. It is to be called several times a second.
func (b *Books) Tick(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle(now)
	if isClosed(b.settled) {
		b.presumeGone(now)
	}
	b.announceHeard(now)
	b.handOverAll(now)
	b.resize(now)
}

// recall gives a new pod the home that the ledger remembers or an agent
// claims, as long as the books are not settled.
func (b *Books) recall(p *pod) {
	b.waiting[p.uid()] = p
	if isClosed(b.settled) {
		// Whoever claims it holds an earlier pod of this UID.
		p.epoch = b.nextEpoch()
		return
	}
	if home, ok := b.ledger[p.uid()]; ok {
		if b.agents[home.Node] == nil {
			b.agents[home.Node] = newAgent(home.Node)
		}
		b.setHome(p, home.Node, home.Epoch)
		if home.Content != p.content {
			b.renew(p, home.Node)
		}
	}
	for _, a := range b.agents {
		if a.told[p.uid()] != nil {
			b.adopt(a, p)
		}
	}
	if a := b.agents[p.node]; a != nil && a.session != nil && a.told[p.uid()] == nil {
		b.lost(a, p)
	}
}

// settle ends the time after the start in which nothing is given away.
func (b *Books) settle(now time.Time) {
	if isClosed(b.settled) || !isClosed(b.resynced) {
		return
	}
	complete := len(b.ledger) > 0
	for _, a := range b.agents {
		complete = complete && a.session != nil
	}
	if !complete && now.Sub(b.started) < settleWithin {
		return
	}
	close(b.settled)
	b.ledger = nil
	for _, a := range b.agents {
		if a.session == nil {
			a.ended = now
		}
	}
	b.placeWaiting()
}

// presumeGone gives the pods of silent agents to others.
func (b *Books) presumeGone(now time.Time) {
	var silent []*agent
	for _, a := range b.agents {
		if since, limit := a.silence(now); since >= limit {
			silent = append(silent, a)
		}
	}
	slices.SortFunc(silent, func(a, c *agent) int { return cmp.Compare(a.node, c.node) })
	mass := 2*len(silent) > len(b.agents)
	moved := false
	for _, a := range silent {
		if since, _ := a.silence(now); mass && since < massSilenceHold {
			// Pods that are to end need no home, so nothing is lost by not
			// waiting for it, and whoever deleted them does wait.
			for _, p := range sorted(a.pods) {
				if p.withdrawing {
					b.stray(a.node, p)
					b.finish(p)
					moved = true
				}
			}
			continue
		}
		b.dismiss(a)
		moved = true
	}
	if moved {
		b.placeWaiting()
	}
}

// dismiss removes a silent agent. Its pods wait for another home; those that
// were being withdrawn are gone.
func (b *Books) dismiss(a *agent) {
	if a.session != nil {
		a.session.end(ErrSilent)
		a.session = nil
	}
	delete(b.agents, a.node)
	b.forsake(a)
	b.capacityChanged()
	for _, p := range sorted(a.pods) {
		if p.withdrawing {
			b.finish(p)
			continue
		}
		b.unhome(p)
		b.waiting[p.uid()] = p
		b.synthesize(p, agentv1.PodState_POD_STATE_PREPARING, "AgentGone",
			fmt.Sprintf("the agent on node %s has fallen silent; the pod is looking for another", a.node))
	}
}

// placeWaiting gives pods without a home to agents, oldest first, and tells
// the rest why they wait.
func (b *Books) placeWaiting() {
	if !isClosed(b.settled) {
		return
	}
	for _, p := range sorted(b.waiting) {
		b.place(p)
	}
}

// place gives a pod without a home to an agent, or tells it why it waits.
func (b *Books) place(p *pod) {
	if !b.mayTry(p) {
		b.explainWaiting(p)
		return
	}
	node, ok := Place(b.rng, b.candidates(p))
	if !ok {
		b.explainWaiting(p)
		return
	}
	b.renew(p, node)
	b.synthesize(p, agentv1.PodState_POD_STATE_PREPARING, "Assigned", "the agent on node "+node+" prepares the pod")
}

// renew makes node the pod's home under a new epoch and tells its agent.
func (b *Books) renew(p *pod, node string) {
	p.startParked = b.revisions[p.want.GetRevision()].startsParked()
	b.setHome(p, node, b.nextEpoch())
	if a := b.agents[node]; !p.startParked {
		a.promised[p.want.GetRuntime()]++
	}
	b.queue(node, p.uid())
	b.updateRoute(p)
}

func (b *Books) nextEpoch() *agentv1.Epoch {
	b.counter++
	return &agentv1.Epoch{Generation: b.generation, Counter: b.counter}
}

// setHome is the one place where a pod's home and epoch change.
func (b *Books) setHome(p *pod, node string, epoch *agentv1.Epoch) {
	if p.node != node {
		b.unhome(p)
		b.agents[node].size += p.size
		b.agents[node].count(p, 1)
	}
	delete(b.waiting, p.uid())
	p.node, p.epoch = node, epoch
	b.agents[node].pods[p.uid()] = p
	b.homeChanges[p.uid()] = Home{Node: node, Epoch: epoch, Content: p.content}
	wake(b.homeWake)
}

func (b *Books) unhome(p *pod) {
	if p.node == "" {
		return
	}
	if a := b.agents[p.node]; a != nil {
		delete(a.pods, p.uid())
		a.size -= p.size
		a.count(p, -1)
	}
	p.node = ""
	b.homeChanges[p.uid()] = Home{}
	wake(b.homeWake)
}

// candidates are the agents that could take the pod.
func (b *Books) candidates(p *pod) []Candidate {
	bundles := bundlesOf(p.want)
	var list []Candidate
	for _, a := range b.agents {
		if a.session == nil || a.leaving || !a.runs(p.want.GetRuntime()) || a.full() || a.size+p.size > b.budget {
			continue
		}
		pool := a.pools[p.want.GetRuntime()]
		list = append(list, Candidate{
			Node:      a.node,
			FreeWarm:  int(pool.GetWarm()) - a.promised[p.want.GetRuntime()],
			HasBundle: a.hasBundle(bundles),
			Pods:      len(a.pods),
		})
	}
	slices.SortFunc(list, func(a, c Candidate) int { return cmp.Compare(a.Node, c.Node) })
	return list
}

// explainWaiting sets the status of a pod without a home.
func (b *Books) explainWaiting(p *pod) {
	r := b.revisions[p.want.GetRevision()]
	connected, able := 0, 0
	for _, a := range b.agents {
		if a.session != nil && !a.leaving {
			connected++
			if a.runs(p.want.GetRuntime()) {
				able++
			}
		}
	}
	state, reason, message := agentv1.PodState_POD_STATE_PREPARING, "", ""
	switch {
	case r.failure != nil:
		state, reason = agentv1.PodState_POD_STATE_FAILED, r.failure.GetReason()
		message = "the first pod of this revision does not load: " + r.failure.GetMessage()
	case connected == 0:
		reason, message = "NoAgent", "no node agent is connected; the pod starts as soon as one is (kubectl get daemonset,pods -n <namespace of SanFran> shows why there is none)"
	case able == 0:
		reason, message = "NoRuntime", fmt.Sprintf("none of the %d connected node agents offers the runtime %q", connected, p.want.GetRuntime())
	case !r.proved && r.prover != p.uid():
		reason, message = "AwaitingFirstPod", "the first pod of this revision is loading; this one follows when it has"
	default:
		reason, message = "NoCapacity", fmt.Sprintf("all %d connected node agents are home to as many pods, or as many bytes of files and environment, as they take", connected)
	}
	b.synthesize(p, state, reason, message)
}

func sorted(pods map[string]*pod) []*pod {
	list := make([]*pod, 0, len(pods))
	for _, p := range pods {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, c *pod) int { return cmp.Compare(a.sequence, c.sequence) })
	return list
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
