package warmpool

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// agent is one node's agent, connected or lately so.
type agent struct {
	node    string
	hello   *agentv1.Hello
	told    map[string]*agentv1.PodStatus // what Hello said of pods; until Sync
	session *Session                      // nil while it is not connected
	ended   time.Time                     // when the last session ended
	// leaving: it has said that it stops, or has let go of pods unasked. It gets
	// no more until it says hello again.
	leaving bool
	pods    map[string]*pod
	formers map[string]*pod                // pods that it serves until their new home does
	size    int                            // of the pods' assignments, in bytes
	bundles map[string]int                 // how often the pods name each
	pools   map[string]*agentv1.PoolStatus // by runtime
	// promised counts pods given to the agent since its last PoolStatus that
	// will take a warm container.
	promised map[string]int
	arrivals map[string]*arrivals
	targets  map[string]int
}

func newAgent(node string) *agent {
	return &agent{
		node: node, pods: make(map[string]*pod), formers: make(map[string]*pod), bundles: make(map[string]int), pools: make(map[string]*agentv1.PoolStatus),
		promised: make(map[string]int), arrivals: make(map[string]*arrivals), targets: make(map[string]int),
	}
}

func (a *agent) runs(runtime string) bool { return slices.Contains(a.hello.GetRuntimes(), runtime) }

// uses reports whether the agent has a pod of the runtime.
func (a *agent) uses(runtime string) bool {
	for _, p := range a.pods {
		if p.want.GetRuntime() == runtime {
			return true
		}
	}
	return false
}

func (a *agent) full() bool {
	limit := a.hello.GetCapacity().GetPods()
	return limit > 0 && int64(len(a.pods)) >= limit
}

func (a *agent) hasBundle(digests []string) bool {
	return slices.ContainsFunc(digests, func(d string) bool { return a.bundles[d] > 0 })
}

// count adds n uses of the bundles of a pod.
func (a *agent) count(p *pod, n int) {
	for _, d := range bundlesOf(p.want) {
		if a.bundles[d] += n; a.bundles[d] == 0 {
			delete(a.bundles, d)
		}
	}
}

// silence is how long nothing has been heard of the agent, and how long is too
// long in its state.
func (a *agent) silence(now time.Time) (since, limit time.Duration) {
	if a.session != nil {
		return now.Sub(a.session.heard()), silentFor
	}
	return now.Sub(a.ended), reconnectWithin
}

// The reasons for which a session is ended from this side.
var (
	ErrReplaced = errors.New("a newer stream of the same node has taken over")
	ErrSilent   = errors.New("the agent has been silent for too long")
)

// Session is one stream of one agent. The books fill it, the stream's handler
// empties it with Take whenever Wake receives, and stops when Ended is closed.
type Session struct {
	node  string
	heard func() time.Time
	wake  chan struct{}
	ended chan struct{}
	once  sync.Once
	cause error

	// Guarded by Books.mu.
	synced  bool
	queue   []string // pods whose message is due, each once
	queued  map[string]bool
	strays  map[string]*agentv1.Withdrawal // pods whose home it is not
	targets map[string]int                 // pool targets that are due
	dials   []*agentv1.Dial                // streams that are due
	over    chan struct{}                  // closed by Disconnect
	// farewell is whether the leaving agent has been told that it may go.
	farewell farewell
}

type farewell int

const (
	farewellUnsaid farewell = iota
	farewellDue
	farewellSaid
)

// Wake receives when Take has something to return.
func (s *Session) Wake() <-chan struct{} { return s.wake }

// Ended is closed when the session is over; Cause says why.
func (s *Session) Ended() <-chan struct{} { return s.ended }

// Cause is ErrReplaced or ErrSilent after Ended.
func (s *Session) Cause() error { return s.cause }

func (s *Session) end(cause error) {
	s.once.Do(func() {
		s.cause = cause
		close(s.ended)
	})
}

// ErrNewerControlPlane says that an agent holds assignments of a later run of
// the control plane than this one, which therefore must leave it alone.
var ErrNewerControlPlane = errors.New("the agent already obeys a newer control plane")

// Connect begins a session for the agent that says hello. heard returns when
// the agent was last heard. An older session of the same node ends.
func (b *Books) Connect(hello *agentv1.Hello, heard func() time.Time, now time.Time) (*Session, error) {
	for _, ps := range hello.GetPods() {
		if g := ps.GetEpoch().GetGeneration(); g > b.generation {
			return nil, fmt.Errorf("%w: pod %s has generation %d, this is %d", ErrNewerControlPlane, ps.GetPodUid(), g, b.generation)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	node := hello.GetNodeName()
	a, ok := b.agents[node]
	if !ok {
		a = newAgent(node)
		b.agents[node] = a
	}
	if a.session != nil {
		a.session.end(ErrReplaced)
	}
	b.forsake(a) // what its Sync does not hold it drops
	a.hello, a.leaving = hello, false
	a.told = make(map[string]*agentv1.PodStatus, len(hello.GetPods()))
	for _, ps := range hello.GetPods() {
		if ps.GetState() != agentv1.PodState_POD_STATE_GONE {
			a.told[ps.GetPodUid()] = ps
		}
	}
	clear(a.pools)
	clear(a.promised)
	clear(a.targets)
	a.session = &Session{
		node: node, heard: heard, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		over: make(chan struct{}), queued: make(map[string]bool), strays: make(map[string]*agentv1.Withdrawal), targets: make(map[string]int),
	}
	// What it holds goes first: that proves revisions, and pods of those that
	// it has lost can begin parked.
	for uid := range a.told {
		if p := b.pods[uid]; p != nil {
			b.adopt(a, p)
		}
	}
	for _, p := range sorted(a.pods) {
		if a.told[p.uid()] == nil {
			b.lost(a, p)
		}
		if b.pods[p.uid()] == p {
			b.updateRoute(p) // its address may be another than before
		}
	}
	b.capacityChanged()
	b.settle(now)
	b.placeWaiting()
	return a.session, nil
}

// adopt takes the agent's word on a pod that it holds, if it may be the pod's
// home: it is, or the pod has none, or the agent's epoch is greater, which only
// a ledger that was lost or is old leaves behind. Otherwise the pod is not in
// the agent's Sync, and it drops it.
func (b *Books) adopt(a *agent, p *pod) {
	told := a.told[p.uid()]
	order := compareEpochs(told.GetEpoch(), p.epoch)
	if order < 0 || order == 0 && p.node != a.node && p.node != "" {
		return
	}
	if p.node != a.node && p.node != "" {
		b.stray(p.node, p)
	}
	b.setHome(p, a.node, told.GetEpoch())
	if isReady(told) && !isClosed(b.settled) {
		// It was ready before this control plane started, and routers have it in their
		// last tables.
		p.announced = true
	}
	b.setStatus(p, told)
	b.learn(p)
}

// lost deals with a pod whose home agent does not hold it: its container, if
// it had one, is gone.
func (b *Books) lost(a *agent, p *pod) {
	if p.withdrawing {
		b.finish(p)
		return
	}
	if !b.mayTry(p) {
		b.unhome(p)
		b.waiting[p.uid()] = p
		b.explainWaiting(p)
		return
	}
	p.startParked = b.revisions[p.want.GetRevision()].startsParked()
	b.synthesize(p, agentv1.PodState_POD_STATE_PREPARING, "Assigned", "the agent on node "+a.node+" prepares the pod")
}

// Disconnect says that the session's stream has ended.
func (b *Books) Disconnect(s *Session, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !isClosed(s.over) {
		close(s.over)
	}
	if a := b.agents[s.node]; a != nil && a.session == s {
		a.session, a.ended = nil, now
		b.forsake(a)
	}
}

// Sync returns all assignments of the session's agent; from then on Take
// returns what changes. It must not be called before ResyncedDone.
func (b *Books) Sync(s *Session) *agentv1.Sync {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.agents[s.node]
	if a == nil || a.session != s {
		return &agentv1.Sync{Generation: b.generation}
	}
	s.synced = true
	a.told = nil
	sync := &agentv1.Sync{Generation: b.generation}
	// Files that were renewed may have grown since their pods were placed.
	for _, p := range slices.Backward(sorted(a.pods)) {
		if a.size > b.budget && !p.withdrawing {
			b.unhome(p)
			b.waiting[p.uid()] = p
		}
	}
	for _, p := range sorted(a.pods) {
		sync.Assignments = append(sync.Assignments, p.assignment())
		if p.withdrawing {
			b.queue(s.node, p.uid())
		}
	}
	b.placeWaiting()
	return sync
}

// Take returns the messages that are due. Several changes of one pod make one
// message, of its latest state.
func (b *Books) Take(s *Session) []*agentv1.ConnectResponse {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !s.synced {
		return nil
	}
	var messages []*agentv1.ConnectResponse
	for _, uid := range s.queue {
		p := b.pods[uid]
		switch stray := s.strays[uid]; {
		case p != nil && p.node == s.node && p.withdrawing:
			messages = append(messages, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Withdraw{Withdraw: p.withdrawal()}})
		case p != nil && p.node == s.node:
			messages = append(messages, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Assign{Assign: p.assignment()}})
		case stray != nil:
			messages = append(messages, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Withdraw{Withdraw: stray}})
		}
	}
	for runtime, warm := range s.targets {
		messages = append(messages, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_PoolTarget{
			PoolTarget: &agentv1.PoolTarget{Runtime: runtime, Warm: int32(warm)},
		}})
	}
	for _, d := range s.dials {
		messages = append(messages, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Dial{Dial: d}})
	}
	if s.farewell == farewellDue { // after the withdrawals that it is about
		s.farewell = farewellSaid
		messages = append(messages, &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Farewell{Farewell: &agentv1.Farewell{}}})
	}
	s.queue, s.dials = nil, nil
	clear(s.queued)
	clear(s.strays)
	clear(s.targets)
	return messages
}

// queue makes a message about the pod due at its home. Before Sync nothing
// need be queued: Sync has it all.
func (b *Books) queue(node, podUID string) {
	a := b.agents[node]
	if a == nil || a.session == nil || !a.session.synced {
		return
	}
	s := a.session
	if !s.queued[podUID] {
		s.queued[podUID] = true
		s.queue = append(s.queue, podUID)
	}
	wake(s.wake)
}

// stray makes the agent on node drop a pod that is at home elsewhere.
func (b *Books) stray(node string, p *pod) {
	if a := b.agents[node]; a != nil && a.session != nil {
		w := &agentv1.Withdrawal{PodUid: p.uid(), Epoch: p.epoch}
		if p.withdrawing {
			w.GracePeriod = durationpb.New(p.grace)
		}
		a.session.strays[p.uid()] = w
		b.queue(node, p.uid())
	}
}

func compareEpochs(a, b *agentv1.Epoch) int {
	if a.GetGeneration() != b.GetGeneration() {
		if a.GetGeneration() < b.GetGeneration() {
			return -1
		}
		return 1
	}
	switch {
	case a.GetCounter() < b.GetCounter():
		return -1
	case a.GetCounter() > b.GetCounter():
		return 1
	}
	return 0
}
