package warmpool

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// Books is what the control plane knows and decides, without any I/O: agents,
// pods and their homes, proved revisions. Calls take effect at once; what
// follows for others is left where they fetch it: messages for an agent in its
// [Session], routes in the [RouteTable], statuses and homes behind
// [Books.TakeChanged] and [Books.TakeHomes]. Each of these is a set of things
// that changed, not a queue of events, so nobody's slowness makes it grow
// beyond what there is.
//
// A pod's home changes only together with its epoch, which only grows. It is
// safe for concurrent use.
type Books struct {
	routes *RouteTable
	sizing PoolSizing
	budget int // maxAssignments

	mu         sync.Mutex
	rng        *rand.Rand
	generation uint64
	counter    uint64
	sequence   uint64
	agents     map[string]*agent
	pods       map[string]*pod
	waiting    map[string]*pod // pods without a home
	revisions  map[string]*revision
	ledger     map[string]Home // what the last run knew; empty once settled
	started    time.Time
	resynced   chan struct{} // closed when every existing pod has been assigned
	settled    chan struct{} // closed when every agent has spoken, or had its time

	changed     map[string]bool // pods whose status has changed
	changedWake chan struct{}
	homeChanges map[string]Home
	homeWake    chan struct{}
	capacity    chan struct{} // closed and replaced when the capacity changes

	unheard         map[string]*unheard
	waitsForHearers atomic.Bool // there are some
}

// pod is one function pod.
type pod struct {
	sequence    uint64
	want        *agentv1.Assignment // without epoch and start_parked
	content     string              // digest of want
	size        int                 // of want, encoded, in bytes
	public      *routesv1.Route     // what its owner says of its route
	node        string              // home; empty while it waits for one
	epoch       *agentv1.Epoch
	startParked bool
	status      *agentv1.PodStatus // nil while nothing is known, after a start
	withdrawing bool
	grace       time.Duration
	former      *former // the home it leaves, while that one serves it
	announced   bool    // routers know that it is ready
}

func (p *pod) uid() string { return p.want.GetPodUid() }

// revision is what the pods of one revision share.
type revision struct {
	pods map[string]*pod
	// proved: a container of it has loaded. Until then prover, the first of
	// its pods, is the only one that is tried.
	proved bool
	prover string
	// stays: its pods are never parked, so none begins so.
	stays bool
	// failure is why the prover does not load.
	failure *agentv1.PodStatus
}

// ErrAssignment says that an assignment lacks what every assignment has.
var ErrAssignment = errors.New("incomplete assignment")

// ErrTooLarge says that a pod's files and environment are too large to be sent.
var ErrTooLarge = errors.New("the pod's volumes and environment are too large")

const (
	// maxAssignment bounds one assignment, in bytes: eight ConfigMaps or Secrets
	// of the greatest size. Code is not in it.
	maxAssignment = 8 << 20
	// maxAssignments bounds those of one agent together, as Sync is one message:
	// 10,000 pods with a token and what else is usual are about 40 MB.
	maxAssignments = 192 << 20
)

// NewBooks returns books without agents and pods for a control plane of
// generation that started at now. ledger is what the last run wrote down; the
// Books own it from here on.
func NewBooks(generation uint64, ledger map[string]Home, routes *RouteTable, sizing PoolSizing, rng *rand.Rand, now time.Time) *Books {
	if ledger == nil {
		ledger = make(map[string]Home)
	}
	return &Books{
		routes: routes, sizing: sizing, budget: maxAssignments, rng: rng, generation: generation, started: now, ledger: ledger,
		agents: make(map[string]*agent), pods: make(map[string]*pod), waiting: make(map[string]*pod),
		revisions: make(map[string]*revision),
		resynced:  make(chan struct{}), settled: make(chan struct{}),
		changed: make(map[string]bool), changedWake: make(chan struct{}, 1), capacity: make(chan struct{}),
		homeChanges: make(map[string]Home), homeWake: make(chan struct{}, 1),
		unheard: make(map[string]*unheard),
	}
}

// Assign makes the pod known, or changes what is known of it. The books keep
// want, which must not be changed afterwards. Its epoch and start_parked are set
// here and ignored in want. An equal assignment is no
// change; one whose files alone differ reaches the pod's home under the same
// epoch, another under a new one. A pod that is being withdrawn is not changed
// any more. Of route, which must not be changed either, exposed, owner, created_unix
// and policy are taken.
func (b *Books) Assign(want *agentv1.Assignment, route *routesv1.Route, now time.Time) error {
	if want.GetPodUid() == "" || want.GetRevision() == "" || want.GetRuntime() == "" {
		return fmt.Errorf("%w: pod %s/%s: uid %q, revision %q, runtime %q; none may be empty",
			ErrAssignment, want.GetNamespace(), want.GetPodName(), want.GetPodUid(), want.GetRevision(), want.GetRuntime())
	}
	if want.GetEpoch() != nil || want.GetStartParked() {
		want = proto.CloneOf(want)
		want.Epoch, want.StartParked = nil, false
	}
	size := proto.Size(want)
	if size > maxAssignment {
		return fmt.Errorf("%w: %d bytes, at most %d are taken; mount fewer or smaller ConfigMaps and Secrets", ErrTooLarge, size, maxAssignment)
	}
	content, err := contentOf(want)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pods[want.GetPodUid()]
	if !ok {
		b.sequence++
		p = &pod{sequence: b.sequence, want: want, content: content, size: size, public: route}
		b.pods[p.uid()] = p
		b.join(p)
		b.recall(p)
		if isClosed(b.settled) && p.node == "" {
			b.place(p) // others that wait have no more to hope for than before
		}
		b.updateRoute(p)
		return nil
	}
	if p.withdrawing {
		return nil
	}
	p.public = route
	if a := b.agents[p.node]; a != nil {
		a.size += size - p.size
	}
	p.size = size
	switch {
	case p.content == content && !proto.Equal(p.want, want):
		// Files alone were renewed, such as a token: the work stays the same.
		p.want = want
		b.queue(p.node, p.uid())
	case p.content != content:
		b.withdrawFormer(p) // it serves what is no more wanted
		b.leave(p)
		if a := b.agents[p.node]; a != nil {
			a.count(p, -1)
		}
		p.want, p.content = want, content
		if a := b.agents[p.node]; a != nil {
			a.count(p, 1)
		}
		b.join(p)
		if p.node == "" {
			// An agent that comes back with the former content has no claim.
			p.epoch = b.nextEpoch()
		} else {
			b.mayTry(p)
			b.renew(p, p.node)
			b.synthesize(p, agentv1.PodState_POD_STATE_PREPARING, "Changed", "the pod has changed and is prepared anew")
		}
		b.placeWaiting()
	}
	b.updateRoute(p)
	return nil
}

// Withdraw ends a pod: its home lets requests in flight finish within grace
// and reports it gone, and then the books forget it; a pod that is nowhere is
// forgotten at once. An unknown pod is no error.
func (b *Books) Withdraw(podUID string, grace time.Duration, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pods[podUID]
	if !ok {
		return
	}
	if p.withdrawing && grace >= p.grace {
		return
	}
	p.withdrawing, p.grace = true, grace
	b.withdrawFormer(p)
	r := b.revisions[p.want.GetRevision()]
	proving := !r.proved && r.prover == podUID
	if proving {
		r.prover, r.failure = "", nil
	}
	if p.node == "" {
		b.finish(p)
	} else {
		b.queue(p.node, podUID)
		b.updateRoute(p)
	}
	if proving {
		b.placeWaiting()
	}
}

// Status is how a pod is, or nil when it is not in the books (any more). Its
// state is POD_STATE_UNSPECIFIED while, after a start of the control plane, no
// agent has spoken of the pod yet: then it is as it was before. A pod is not called
// ready before every router knows where it is, or has been waited for. The message
// is never changed after it was handed out.
func (b *Books) Status(podUID string) *agentv1.PodStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.pods[podUID]
	switch {
	case !ok:
		return nil
	case p.status == nil:
		return &agentv1.PodStatus{PodUid: podUID, Epoch: p.epoch}
	case b.unheard[podUID] != nil:
		return &agentv1.PodStatus{
			PodUid: podUID, Epoch: p.epoch, State: agentv1.PodState_POD_STATE_PREPARING,
			Reason: "RoutesPending", Message: "gateways and agents hear of where the pod is",
			RestartCount: p.status.GetRestartCount(), LastTermination: p.status.GetLastTermination(),
		}
	}
	return p.status
}

// Uses says whether a pod in the books needs the bundle of digest.
func (b *Books) Uses(digest string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pods {
		if p.uses(digest) {
			return true
		}
	}
	return false
}

// TakeChanged returns the UIDs of the pods whose status has changed since the
// last call; ChangedWake signals that there are some.
func (b *Books) TakeChanged() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	uids := slices.Collect(maps.Keys(b.changed))
	clear(b.changed)
	return uids
}

// ChangedWake receives after statuses have changed.
func (b *Books) ChangedWake() <-chan struct{} { return b.changedWake }

// TakeHomes returns the pods whose home has changed since the last call, for
// the ledger; HomeWake signals that there are some.
func (b *Books) TakeHomes() map[string]Home {
	b.mu.Lock()
	defer b.mu.Unlock()
	taken := b.homeChanges
	b.homeChanges = make(map[string]Home)
	return taken
}

// HomeWake receives after homes have changed.
func (b *Books) HomeWake() <-chan struct{} { return b.homeWake }

// finish forgets a pod and tells of its end.
func (b *Books) finish(p *pod) {
	b.withdrawFormer(p)
	b.unhome(p)
	delete(b.waiting, p.uid())
	delete(b.pods, p.uid())
	b.forgetUnheard(p.uid())
	b.leave(p)
	b.routes.Remove(p.uid())
	b.changed[p.uid()] = true
	wake(b.changedWake)
}

// synthesize sets a status that no agent has reported.
func (b *Books) synthesize(p *pod, state agentv1.PodState, reason, message string) {
	// Most of what waits is told the same again.
	if s := p.status; s != nil && s.GetState() == state && s.GetReason() == reason && s.GetMessage() == message &&
		s.GetInstance() == nil && compareEpochs(s.GetEpoch(), p.epoch) == 0 {
		return
	}
	b.setStatus(p, &agentv1.PodStatus{
		PodUid: p.uid(), Epoch: p.epoch, State: state, Reason: reason, Message: message,
		RestartCount: p.status.GetRestartCount(), StartedAt: p.status.GetStartedAt(),
	})
}

// setStatus takes the word of a pod's home, or the books' own.
func (b *Books) setStatus(p *pod, status *agentv1.PodStatus) {
	if !p.hold(status) {
		b.show(p, status)
	}
}

// show makes a status the one that everybody is told.
func (b *Books) show(p *pod, status *agentv1.PodStatus) {
	if proto.Equal(p.status, status) {
		return
	}
	p.status = status
	b.updateRoute(p)
	// While routers are to hear of it first there is nothing new to tell others.
	if b.unheard[p.uid()] == nil {
		b.changed[p.uid()] = true
		wake(b.changedWake)
	}
}

func (b *Books) updateRoute(p *pod) {
	home := p.serving()
	route := &routesv1.Route{
		PodUid: p.uid(), Namespace: p.want.GetNamespace(), PodName: p.want.GetPodName(), Function: p.want.GetFunction(),
		Revision: p.want.GetRevision(), Address: p.want.GetAddress(), Address6: p.want.GetAddress6(), Port: p.want.GetPort(), Exposed: p.public.GetExposed(),
		Owner: p.public.GetOwner(), CreatedUnix: p.public.GetCreatedUnix(), Policy: p.public.GetPolicy(),
		HomeNode: home,
	}
	if a, ok := b.agents[home]; ok {
		route.HomeAddress = a.hello.GetDataAddress()
	}
	route.Ready = isReady(p.status) && !p.withdrawing && route.HomeAddress != ""
	if i := p.status.GetInstance(); i != nil && p.status.GetState() == agentv1.PodState_POD_STATE_ACTIVE {
		route.Instances = []*routesv1.Instance{{LeaseId: i.GetLeaseId(), Address: i.GetAddress(), Nonce: i.GetNonce()}}
	}
	b.announce(p, route.GetReady(), b.routes.Set(route))
}

// assignment is what the pod's home is told.
func (p *pod) assignment() *agentv1.Assignment {
	a := proto.CloneOf(p.want)
	a.Epoch, a.StartParked = p.epoch, p.startParked
	return a
}

func (p *pod) withdrawal() *agentv1.Withdrawal {
	return &agentv1.Withdrawal{PodUid: p.uid(), Epoch: p.epoch, GracePeriod: durationpb.New(p.grace)}
}

func bundlesOf(want *agentv1.Assignment) []string {
	var digests []string
	for _, m := range want.GetMounts() {
		if d := m.GetBundle(); d != "" {
			digests = append(digests, d)
		}
	}
	return digests
}

// uses says whether the pod needs the bundle.
func (p *pod) uses(digest string) bool {
	return slices.ContainsFunc(p.want.GetMounts(), func(m *agentv1.Mount) bool {
		return m.GetBundle() != "" && m.GetBundle() == digest
	})
}

// contentOf is a digest of what makes a pod's containers what they are. The
// contents of files are not in it: tokens among them are replaced all the time,
// and after a start of the control plane too, and a pod must not be restarted
// for that.
func contentOf(want *agentv1.Assignment) (string, error) {
	want = proto.CloneOf(want)
	for _, m := range want.GetMounts() {
		for name := range m.GetFiles().GetFiles() {
			m.GetFiles().GetFiles()[name] = nil
		}
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(want)
	if err != nil {
		return "", fmt.Errorf("encode the assignment of pod %s/%s: %w", want.GetNamespace(), want.GetPodName(), err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16]), nil
}

// wake signals on a channel of capacity one without waiting.
func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
