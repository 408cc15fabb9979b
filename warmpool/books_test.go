package warmpool

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

const (
	preparing = agentv1.PodState_POD_STATE_PREPARING
	active    = agentv1.PodState_POD_STATE_ACTIVE
	parked    = agentv1.PodState_POD_STATE_PARKED
	failed    = agentv1.PodState_POD_STATE_FAILED
	goneState = agentv1.PodState_POD_STATE_GONE
)

// world is books, a clock and the agents that obey the books.
type world struct {
	t      rapid.TB
	books  *Books
	routes *RouteTable
	now    time.Time
	agents map[string]*fakeAgent
	// epochs are the greatest that any agent was given, by pod.
	epochs map[string]*agentv1.Epoch
}

// fakeAgent does what it is told, as an agent does.
type fakeAgent struct {
	node    string
	session *Session
	heard   time.Time
	pods    map[string]*agentv1.Assignment
	state   map[string]*agentv1.PodStatus
	leases  int
}

func newWorld(t rapid.TB, ledger map[string]Home) *world {
	w := &world{t: t, routes: NewRouteTable(7), now: time.Unix(1_700_000_000, 0), agents: make(map[string]*fakeAgent), epochs: make(map[string]*agentv1.Epoch)}
	w.books = NewBooks(7, ledger, w.routes, PoolSizing{}, rand.New(rand.NewPCG(1, 2)), w.now)
	return w
}

func (w *world) agent(node string) *fakeAgent {
	if w.agents[node] == nil {
		w.agents[node] = &fakeAgent{node: node, pods: make(map[string]*agentv1.Assignment), state: make(map[string]*agentv1.PodStatus)}
	}
	return w.agents[node]
}

func (w *world) connect(a *fakeAgent) {
	hello := &agentv1.Hello{NodeName: a.node, DataAddress: a.node + ":7070", Runtimes: []string{"node24"}, Capacity: &agentv1.Capacity{MilliCpu: 1000, Pods: 5}}
	for _, s := range a.state {
		hello.Pods = append(hello.Pods, s)
	}
	a.heard = w.now
	session, err := w.books.Connect(hello, func() time.Time { return a.heard }, w.now)
	if err != nil {
		w.t.Fatalf("connect %s: %v", a.node, err)
	}
	a.session = session
	w.deliver()
}

// deliver gives every connected agent what is due.
func (w *world) deliver() {
	for _, a := range w.agents {
		if a.session == nil {
			continue
		}
		if isClosed(a.session.Ended()) {
			a.session = nil
			continue
		}
		if !a.session.synced && isClosed(w.books.ResyncedDone()) {
			sync := w.books.Sync(a.session)
			keep := make(map[string]bool)
			for _, assignment := range sync.GetAssignments() {
				keep[assignment.GetPodUid()] = true
				w.take(a, assignment)
			}
			for uid := range a.pods {
				if !keep[uid] {
					delete(a.pods, uid)
					delete(a.state, uid)
				}
			}
		}
		for _, m := range w.books.Take(a.session) {
			if assignment := m.GetAssign(); assignment != nil {
				w.take(a, assignment)
			}
			if wd := m.GetWithdraw(); wd != nil {
				if held := a.pods[wd.GetPodUid()]; held != nil && compareEpochs(wd.GetEpoch(), held.GetEpoch()) < 0 {
					continue
				}
				delete(a.pods, wd.GetPodUid())
				delete(a.state, wd.GetPodUid())
				w.books.ReportPod(a.session, &agentv1.PodStatus{PodUid: wd.GetPodUid(), Epoch: wd.GetEpoch(), State: goneState}, w.now)
			}
		}
	}
}

func (w *world) take(a *fakeAgent, assignment *agentv1.Assignment) {
	uid := assignment.GetPodUid()
	if compareEpochs(assignment.GetEpoch(), w.epochs[uid]) < 0 {
		w.t.Fatalf("pod %s was given to %s under epoch %v, after %v", uid, a.node, assignment.GetEpoch(), w.epochs[uid])
	}
	if held := a.pods[uid]; held != nil && compareEpochs(held.GetEpoch(), assignment.GetEpoch()) == 0 {
		return
	}
	w.epochs[uid] = assignment.GetEpoch()
	a.pods[uid] = assignment
	state := preparing
	if assignment.GetStartParked() {
		state = parked
	}
	w.report(a, uid, state)
}

func (w *world) report(a *fakeAgent, uid string, state agentv1.PodState) {
	s := &agentv1.PodStatus{PodUid: uid, Epoch: a.pods[uid].GetEpoch(), State: state}
	switch state {
	case active:
		a.leases++
		s.Instance = &agentv1.Instance{LeaseId: fmt.Sprintf("%s-%d", a.node, a.leases), Address: a.node + ":20000", Nonce: "n"}
	case failed:
		s.Reason, s.Message = "SyntaxError", "index.js:1"
	}
	a.state[uid] = s
	if a.session != nil {
		w.books.ReportPod(a.session, s, w.now)
	}
}

// exposed is what the provider says of a pod's route.
var exposed = &routesv1.Route{Exposed: true, Owner: "Deployment/hello", CreatedUnix: 7, Policy: &routesv1.Policy{Rate: 5}}

func assignment(uid, revision string) *agentv1.Assignment {
	return &agentv1.Assignment{
		PodUid: uid, Namespace: "default", PodName: "pod-" + uid, Function: "f", Revision: revision, Runtime: "node24", Address: "10.245.0.1", Port: 8080,
		Mounts: []*agentv1.Mount{{Path: "/function", Source: &agentv1.Mount_Bundle{Bundle: "sha256:" + revision}}},
	}
}

// pass lets d go by, tick by tick; connected agents are heard all the while.
func (w *world) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(250 * time.Millisecond)
		for _, a := range w.agents {
			if a.session != nil {
				a.heard = w.now
			}
		}
		w.books.Tick(w.now)
		w.deliver()
	}
}

func (w *world) assign(uid, revision string) {
	if err := w.books.Assign(assignment(uid, revision), exposed, w.now); err != nil {
		w.t.Fatalf("assign %s: %v", uid, err)
	}
	w.deliver()
}

func (w *world) disconnect(a *fakeAgent) {
	w.books.Disconnect(a.session, w.now)
	a.session = nil
}

func (w *world) expect(uid string, state agentv1.PodState, reason string) {
	s := w.books.Status(uid)
	if s.GetState() != state || reason != "" && s.GetReason() != reason {
		w.t.Helper()
		w.t.Fatalf("pod %s is %v (%s: %s), want %v %s", uid, s.GetState(), s.GetReason(), s.GetMessage(), state, reason)
	}
}

// fresh is a world that has settled with the named agents.
func fresh(t rapid.TB, nodes ...string) *world {
	w := newWorld(t, nil)
	w.books.Resynced(w.now)
	for _, node := range nodes {
		w.connect(w.agent(node))
	}
	w.pass(settleWithin + time.Second)
	return w
}

func TestFirstPodProvesTheOthers(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	for _, uid := range []string{"a", "b", "c"} {
		w.assign(uid, "r1")
	}
	w.expect("a", preparing, "")
	w.expect("b", preparing, "AwaitingFirstPod")
	w.report(a, "a", failed)
	w.expect("b", failed, "SyntaxError")
	w.assign("d", "r1")
	w.expect("d", failed, "SyntaxError")
	w.report(a, "a", active)
	w.deliver()
	for _, uid := range []string{"b", "c", "d"} {
		w.expect(uid, parked, "")
		if !a.pods[uid].GetStartParked() {
			t.Errorf("pod %s was activated", uid)
		}
	}
	all, ready := w.routes.Len()
	if all != 4 || ready != 4 {
		t.Errorf("%d routes, %d ready, want 4 and 4", all, ready)
	}
	if n := len(w.routes.routes["a"].GetInstances()); n != 1 {
		t.Errorf("the active pod has %d instances", n)
	}
}

func TestPodsThatStayDoNotBeginParked(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	w.assign("a", "r1")
	w.books.ReportPod(a.session, &agentv1.PodStatus{
		PodUid: "a", Epoch: a.pods["a"].GetEpoch(), State: active, Stays: true,
		Instance: &agentv1.Instance{LeaseId: "l", Address: "n1:20000", Nonce: "n"},
	}, w.now)
	w.assign("b", "r1")
	if b := a.pods["b"]; b == nil || b.GetStartParked() {
		t.Errorf("a further pod of a server's revision: %v; want it activated", b)
	}
}

func TestAnotherPodProvesWhenTheFirstGoes(t *testing.T) {
	w := fresh(t, "n1")
	w.assign("a", "r1")
	w.assign("b", "r1")
	w.report(w.agent("n1"), "a", failed)
	w.books.Withdraw("a", time.Second, w.now)
	w.deliver()
	if w.books.Status("a") != nil {
		t.Error("the withdrawn pod is still known")
	}
	if b := w.agent("n1").pods["b"]; b == nil || b.GetStartParked() {
		t.Errorf("the second pod was not tried: %v", b)
	}
}

func TestReasonsForWaiting(t *testing.T) {
	w := fresh(t)
	w.assign("a", "r1")
	w.expect("a", preparing, "NoAgent")
	w.connect(w.agent("n1"))
	w.expect("a", preparing, "")
	other := assignment("b", "r2")
	other.Runtime = "node99"
	if err := w.books.Assign(other, exposed, w.now); err != nil {
		t.Fatal(err)
	}
	w.expect("b", preparing, "NoRuntime")
	for i := range 5 {
		w.assign(fmt.Sprint(i), fmt.Sprintf("r-%d", i))
	}
	w.expect("4", preparing, "NoCapacity")
	w.books.Withdraw("0", 0, w.now)
	w.deliver()
	w.deliver()
	if w.agent("n1").pods["4"] == nil {
		t.Error("freed room was not used")
	}
}

func TestSilentAgentsPodsMove(t *testing.T) {
	w := fresh(t, "n1", "n2", "n3")
	for i := range 6 {
		w.assign(fmt.Sprint(i), fmt.Sprintf("r%d", i))
	}
	for _, a := range w.agents {
		for uid := range a.pods {
			w.report(a, uid, active)
		}
	}
	n1 := w.agent("n1")
	held := len(n1.pods)
	if held == 0 {
		t.Fatal("nothing was placed on n1")
	}
	w.disconnect(n1)
	w.pass(reconnectWithin - 500*time.Millisecond)
	if n := len(w.agent("n2").pods) + len(w.agent("n3").pods); n != 6-held {
		t.Fatalf("%d pods on the others before the time", n)
	}
	w.pass(time.Second)
	if n := len(w.agent("n2").pods) + len(w.agent("n3").pods); n != 6 {
		t.Fatalf("%d pods on the others, want all 6", n)
	}
	for uid := range n1.pods {
		w.expect(uid, parked, "") // its revision is proved
	}
	// It was only cut off: it comes back, still holding them, and drops them.
	w.connect(n1)
	if len(n1.pods) != 0 {
		t.Errorf("n1 still holds %d pods", len(n1.pods))
	}
}

func TestMassSilenceIsNotBelieved(t *testing.T) {
	w := fresh(t, "n1", "n2", "n3")
	w.assign("a", "r1")
	var home *fakeAgent
	for _, a := range w.agents {
		if a.pods["a"] != nil {
			home = a
		}
	}
	w.report(home, "a", active)
	for _, a := range w.agents {
		w.disconnect(a)
	}
	w.pass(massSilenceHold - 2*time.Second)
	w.expect("a", active, "")
	w.connect(home)
	w.expect("a", active, "")
	w.disconnect(home)
	w.pass(massSilenceHold + time.Second)
	w.expect("a", preparing, "NoAgent")
	w.connect(home)
	w.expect("a", active, "")
	if len(home.pods) != 1 {
		t.Error("the agent lost its pod")
	}
}

func TestFrozenAgentIsDismissed(t *testing.T) {
	w := fresh(t, "n1", "n2", "n3")
	n1 := w.agent("n1")
	session := n1.session
	n1.session = nil // it is not heard any more, but its stream stands
	w.pass(silentFor + 500*time.Millisecond)
	if !isClosed(session.Ended()) || session.Cause() != ErrSilent {
		t.Error("the stream was not ended")
	}
}

func TestNewerStreamReplacesTheOlder(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	old := a.session
	w.connect(a)
	if !isClosed(old.Ended()) || old.Cause() != ErrReplaced {
		t.Error("the older stream was not ended")
	}
	w.books.Disconnect(old, w.now) // its handler returns late
	w.assign("a", "r1")
	if a.pods["a"] == nil {
		t.Error("the newer stream was ended with the older")
	}
}

// TestRestartKeepsWhatLives: after a restart of the control plane, with and
// without its ledger, pods stay where they are under the same epoch.
func TestRestartKeepsWhatLives(t *testing.T) {
	for _, c := range []struct {
		name              string
		withLedger, first bool
	}{{"ledger, agent first", true, true}, {"ledger, pods first", true, false}, {"no ledger, agent first", false, true}, {"no ledger, pods first", false, false}} {
		t.Run(c.name, func(t *testing.T) {
			epoch := &agentv1.Epoch{Generation: 6, Counter: 3}
			var ledger map[string]Home
			if c.withLedger {
				content, err := contentOf(assignment("a", "r1"))
				if err != nil {
					t.Fatal(err)
				}
				ledger = map[string]Home{"a": {Node: "n2", Epoch: epoch, Content: content}, "deleted": {Node: "n9", Epoch: epoch}}
			}
			w := newWorld(t, ledger)
			n2 := w.agent("n2")
			n2.pods["a"] = assignment("a", "r1")
			n2.pods["a"].Epoch = epoch
			w.report(n2, "a", active)
			n2.pods["stale"] = assignment("stale", "r9")
			n2.pods["stale"].Epoch = epoch
			w.report(n2, "stale", parked)
			agents := func() {
				w.connect(w.agent("n1"))
				w.connect(n2)
			}
			if c.first {
				agents()
			}
			w.assign("a", "r1")
			w.assign("new", "r2")
			if !c.first {
				agents()
			}
			if len(n2.pods) != 2 {
				t.Fatal("the agent was told to drop pods before all were known")
			}
			if isClosed(w.books.Settled()) {
				t.Fatal("settled before the pods were known")
			}
			w.books.Resynced(w.now)
			w.deliver()
			w.pass(settleWithin + time.Second)
			w.expect("a", active, "")
			if diff := cmp.Diff(epoch, n2.pods["a"].GetEpoch(), protocmp.Transform()); diff != "" {
				t.Errorf("the epoch changed: %s", diff)
			}
			if n2.pods["stale"] != nil {
				t.Error("a pod that is no more was kept")
			}
			if w.agent("n1").pods["new"] == nil && n2.pods["new"] == nil {
				t.Error("the new pod was not placed")
			}
			if r := w.routes.routes["a"]; !r.GetReady() || len(r.GetInstances()) != 1 || r.GetHomeAddress() != "n2:7070" {
				t.Errorf("route %v", r)
			}
		})
	}
}

func TestRestartWithChangedContentRenews(t *testing.T) {
	epoch := &agentv1.Epoch{Generation: 6, Counter: 3}
	w := newWorld(t, map[string]Home{"a": {Node: "n1", Epoch: epoch, Content: "another"}})
	a := w.agent("n1")
	a.pods["a"] = assignment("a", "r0")
	a.pods["a"].Epoch = epoch
	w.report(a, "a", active)
	w.connect(a)
	w.assign("a", "r1")
	w.books.Resynced(w.now)
	w.deliver()
	if got := a.pods["a"]; got.GetRevision() != "r1" || got.GetEpoch().GetGeneration() != 7 {
		t.Errorf("the agent holds %v", got)
	}
}

func TestOldControlPlaneLeavesAgentsAlone(t *testing.T) {
	w := fresh(t)
	hello := &agentv1.Hello{NodeName: "n1", Pods: []*agentv1.PodStatus{{PodUid: "a", Epoch: &agentv1.Epoch{Generation: 8}}}}
	if _, err := w.books.Connect(hello, time.Now, w.now); err == nil || !strings.Contains(err.Error(), "generation 8") {
		t.Errorf("got %v, want a refusal", err)
	}
}

func TestAssignRefusesIncomplete(t *testing.T) {
	w := fresh(t)
	for _, spoil := range []func(*agentv1.Assignment){
		func(a *agentv1.Assignment) { a.PodUid = "" },
		func(a *agentv1.Assignment) { a.Revision = "" },
		func(a *agentv1.Assignment) { a.Runtime = "" },
	} {
		a := assignment("a", "r")
		spoil(a)
		if err := w.books.Assign(a, exposed, w.now); err == nil {
			t.Errorf("%v was accepted", a)
		}
	}
}

// TestI7OneHome plays random histories. Whatever happens, epochs only grow
// (checked by take), and once everybody is connected and has been told, every
// pod is at exactly the agent that the books and the routes name, under the
// books' epoch, and nobody holds anything else.
func TestI7OneHome(t *testing.T) {
	nodes := []string{"n1", "n2", "n3"}
	rapid.Check(t, func(t *rapid.T) {
		w := fresh(t, "n1", "n2")
		revisions := make(map[string]string) // wanted pods
		uids := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		node := rapid.SampledFrom(nodes)
		t.Repeat(map[string]func(*rapid.T){
			"assign": func(t *rapid.T) {
				uid := uids.Draw(t, "uid")
				if _, wanted := revisions[uid]; !wanted && w.books.Status(uid) != nil {
					return // being withdrawn; a UID does not come back
				}
				revisions[uid] = rapid.SampledFrom([]string{"r1", "r2"}).Draw(t, "revision")
				w.assign(uid, revisions[uid])
			},
			"withdraw": func(t *rapid.T) {
				uid := uids.Draw(t, "uid")
				delete(revisions, uid)
				w.books.Withdraw(uid, time.Second, w.now)
			},
			"connect": func(t *rapid.T) { w.connect(w.agent(node.Draw(t, "node"))) },
			"disconnect": func(t *rapid.T) {
				if a := w.agent(node.Draw(t, "node")); a.session != nil {
					w.disconnect(a)
				}
			},
			"leave": func(t *rapid.T) {
				if a := w.agent(node.Draw(t, "node")); a.session != nil {
					w.books.Leave(a.session, w.now)
				}
			},
			"lose everything": func(t *rapid.T) {
				a := w.agent(node.Draw(t, "node"))
				if a.session != nil {
					w.disconnect(a)
				}
				clear(a.pods)
				clear(a.state)
			},
			"report": func(t *rapid.T) {
				a := w.agent(node.Draw(t, "node"))
				uid := uids.Draw(t, "uid")
				if a.pods[uid] != nil {
					w.report(a, uid, rapid.SampledFrom([]agentv1.PodState{preparing, active, parked, failed}).Draw(t, "state"))
				}
			},
			"pass":    func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second) },
			"deliver": func(*rapid.T) { w.deliver() },
		})
		for _, n := range nodes {
			a := w.agent(n)
			if a.session == nil || isClosed(a.session.Ended()) || w.books.agents[n].leaving {
				w.connect(a)
			}
		}
		// Every pod loads from now on.
		for range 4 {
			w.pass(time.Second)
			for _, a := range w.agents {
				for uid := range a.pods {
					if s := a.state[uid].GetState(); s != active && s != parked {
						w.report(a, uid, active)
					}
				}
			}
		}
		w.pass(time.Second)
		for uid := range w.books.pods {
			if _, wanted := revisions[uid]; !wanted {
				t.Errorf("withdrawn pod %s is still known", uid)
			}
		}
		for uid, revision := range revisions {
			p := w.books.pods[uid]
			if p == nil {
				t.Fatalf("pod %s is lost", uid)
			}
			var holders []string
			for _, a := range w.agents {
				if held := a.pods[uid]; held != nil {
					holders = append(holders, a.node)
					if held.GetRevision() != revision || compareEpochs(held.GetEpoch(), p.epoch) != 0 {
						t.Errorf("pod %s at %s is %s %v, want %s %v", uid, a.node, held.GetRevision(), held.GetEpoch(), revision, p.epoch)
					}
					if !proto.Equal(a.state[uid], w.books.Status(uid)) {
						t.Errorf("pod %s is %v, the books say %v", uid, a.state[uid], w.books.Status(uid))
					}
				}
			}
			if !slices.Equal(holders, []string{p.node}) {
				t.Errorf("pod %s is held by %v, its home is %q (%v)", uid, holders, p.node, w.books.Status(uid))
			}
			route := w.routes.routes[uid]
			if route.GetHomeNode() != p.node || !route.GetReady() || route.GetRevision() != revision {
				t.Errorf("pod %s: route %v", uid, route)
			}
		}
		if len(w.routes.routes) != len(revisions) {
			t.Errorf("%d routes for %d pods", len(w.routes.routes), len(revisions))
		}
		for node, a := range w.books.agents {
			bundles := make(map[string]int)
			for _, p := range a.pods {
				for _, d := range bundlesOf(p.want) {
					bundles[d]++
				}
			}
			if diff := cmp.Diff(bundles, a.bundles); diff != "" {
				t.Errorf("the bundles of %s: %s", node, diff)
			}
		}
		for _, a := range w.agents {
			for uid := range a.pods {
				if _, wanted := revisions[uid]; !wanted {
					t.Errorf("%s still holds withdrawn pod %s", a.node, uid)
				}
			}
		}
	})
}

func TestRenewedFilesKeepTheEpoch(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	withToken := func(token string) *agentv1.Assignment {
		x := assignment("a", "r1")
		x.Mounts = append(x.Mounts, &agentv1.Mount{Path: "/var/run/secrets", Source: &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: map[string][]byte{"token": []byte(token)}}}})
		return x
	}
	if err := w.books.Assign(withToken("first"), exposed, w.now); err != nil {
		t.Fatal(err)
	}
	w.deliver()
	w.report(a, "a", active)
	epoch := a.pods["a"].GetEpoch()
	if err := w.books.Assign(withToken("second"), exposed, w.now); err != nil {
		t.Fatal(err)
	}
	messages := w.books.Take(a.session)
	if len(messages) != 1 {
		t.Fatalf("%d messages, want one", len(messages))
	}
	again := messages[0].GetAssign()
	if compareEpochs(again.GetEpoch(), epoch) != 0 || string(again.GetMounts()[1].GetFiles().GetFiles()["token"]) != "second" {
		t.Errorf("the agent was told %v", again)
	}
	w.expect("a", active, "")
	// A file more or less is other work.
	other := withToken("second")
	other.GetMounts()[1].GetFiles().GetFiles()["ca.crt"] = nil
	if err := w.books.Assign(other, exposed, w.now); err != nil {
		t.Fatal(err)
	}
	w.expect("a", preparing, "Changed")
}

func TestStoppingAgentGetsNothingMore(t *testing.T) {
	w := fresh(t, "n1")
	a := w.agent("n1")
	w.assign("a", "r1")
	w.report(a, "a", active)
	// It stops: it lets go of its pods before its stream ends.
	w.books.ReportPod(a.session, &agentv1.PodStatus{PodUid: "a", Epoch: a.pods["a"].GetEpoch(), State: goneState}, w.now)
	w.expect("a", preparing, "NoAgent")
	if n := len(w.books.Take(a.session)); n != 0 {
		t.Errorf("%d messages for an agent that stops", n)
	}
	clear(a.pods)
	clear(a.state)
	w.disconnect(a)
	w.connect(a)
	w.expect("a", parked, "") // its revision is proved
}

// What an owner says of a pod's route reaches routers, and changes nothing for the
// pod's agent.
func TestARouteSaysWhatItsOwnerDoes(t *testing.T) {
	w := newWorld(t, nil)
	w.books.Resynced(w.now)
	a := w.agent("n1")
	w.connect(a)
	w.now = w.now.Add(settleWithin)
	w.books.Tick(w.now)
	w.deliver()
	w.assign("a", "r1")
	route := w.routes.routes["a"]
	if !route.GetExposed() || route.GetOwner() != "Deployment/hello" || route.GetCreatedUnix() != 7 || route.GetPolicy().GetRate() != 5 {
		t.Fatalf("the route is %v", route)
	}
	epoch := w.books.Status("a").GetEpoch()
	want := w.books.pods["a"].want
	if err := w.books.Assign(want, &routesv1.Route{Owner: "Deployment/hello", Policy: &routesv1.Policy{Rate: 9}}, w.now); err != nil {
		t.Fatal(err)
	}
	route = w.routes.routes["a"]
	if route.GetExposed() || route.GetPolicy().GetRate() != 9 {
		t.Errorf("the route is still %v", route)
	}
	if after := w.books.Status("a").GetEpoch(); compareEpochs(epoch, after) != 0 {
		t.Errorf("the pod was made anew: epoch %v, then %v", epoch, after)
	}
}
