package warmpool

import (
	"math"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// I5: a pod is ready when every router that answers knows where it is. One that does
// not answer is waited for once.
func TestI5APodIsReadyWhenRoutersKnowIt(t *testing.T) {
	w := fresh(t, "n1")
	gateway, agent := w.routes.hear("gateway"), w.routes.hear("agent")
	hears := func(all ...*hearer) {
		for _, h := range all {
			w.routes.acknowledge(h, 7, w.routes.Current())
		}
		w.books.Heard(w.now)
	}
	hears(gateway, agent)
	n1 := w.agent("n1")
	w.assign("a", "r1")
	w.told(n1)
	w.books.TakeChanged()
	w.report(n1, "a", active)
	pending := func(uid string) {
		t.Helper()
		if s := w.books.Status(uid); s.GetState() != preparing || s.GetReason() != "RoutesPending" {
			t.Fatalf("the status of %s is %v", uid, s)
		}
		if !w.routes.routes[uid].GetReady() {
			t.Fatalf("the route of %s is not told", uid)
		}
	}
	pending("a")
	if changed := w.books.TakeChanged(); len(changed) != 0 {
		t.Errorf("told of changes of %v, of which there is nothing to be seen", changed)
	}
	hears(gateway)
	pending("a")
	hears(agent)
	w.expect("a", active, "")
	if changed := w.books.TakeChanged(); len(changed) != 1 {
		t.Errorf("told of changes of %v", changed)
	}
	// What it does from now on needs nobody's word.
	w.report(n1, "a", parked)
	w.expect("a", parked, "")
	hears(gateway, agent)

	// The gateway is stuck: the next pod waits for it, the one after does not.
	w.assign("b", "r2")
	w.told(n1)
	w.report(n1, "b", active)
	hears(agent)
	w.tick(heardWithin / 2)
	pending("b")
	w.tick(heardWithin)
	w.expect("b", active, "")
	w.assign("c", "r3")
	w.told(n1)
	w.report(n1, "c", active)
	pending("c")
	hears(agent)
	w.expect("c", active, "")
	// It is back, and counts again.
	hears(gateway)
	w.assign("d", "r4")
	w.told(n1)
	w.report(n1, "d", active)
	hears(agent)
	pending("d")
	// A pod that is deleted or fails meanwhile is what it is.
	w.report(n1, "d", agentv1.PodState_POD_STATE_FAILED)
	w.expect("d", agentv1.PodState_POD_STATE_FAILED, "")
	w.report(n1, "d", active)
	pending("d")
	w.books.Withdraw("d", 0, w.now)
	w.expect("d", active, "")
	if len(w.books.unheard) != 0 || w.books.waitsForHearers.Load() {
		t.Errorf("%d pods still wait to be heard of", len(w.books.unheard))
	}
}

func TestARouterThatIsAwayIsWaitedForUntilItIsBack(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	table := NewRouteTable(7)
	if table.Heard(now) != math.MaxUint64 {
		t.Error("with no routers somebody is waited for")
	}
	h := table.hear("gateway")
	revision := table.Set(&routesv1.Route{PodUid: "a"})
	table.acknowledge(h, 6, revision)
	table.acknowledge(h, 7, revision+1)
	if table.Heard(now) != 0 {
		t.Error("another run's revision, or one that is not yet, was taken for an answer")
	}
	table.leaves(h, now)
	if table.Heard(now.Add(heardWithin/2)) != 0 {
		t.Error("a router whose stream broke a moment ago is not waited for")
	}
	back := table.hear("gateway")
	table.acknowledge(back, 7, revision)
	if got := table.Heard(now); got != revision {
		t.Errorf("heard %d after it came back with %d", got, revision)
	}
	if again := table.Set(&routesv1.Route{PodUid: "a"}); again != revision {
		t.Errorf("an equal route has revision %d, want %d", again, revision)
	}
	table.Set(&routesv1.Route{PodUid: "b"})
	table.leaves(back, now)
	if table.Heard(now.Add(heardWithin)) != math.MaxUint64 || len(table.hearers) != 0 {
		t.Error("a router that has gone for good is still counted")
	}
	mute := table.hear("old")
	table.ignore(mute)
	table.leaves(mute, now)
	if table.Heard(now) != math.MaxUint64 {
		t.Error("a router that does not say what it has is waited for")
	}
}

// A router that was given up on counts again once it has what there was then, also
// where the table does not stand still for it.
func TestARouterCatchesUpWithATableThatGoesOn(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	table := NewRouteTable(7)
	h := table.hear("gateway")
	waited := table.Set(&routesv1.Route{PodUid: "a"})
	then := table.Set(&routesv1.Route{PodUid: "b"})
	table.giveUpOn(waited)
	later := table.Set(&routesv1.Route{PodUid: "c"})
	table.acknowledge(h, 7, waited)
	if table.Heard(now) != math.MaxUint64 {
		t.Error("a router is waited for that is behind what there was when it was given up on")
	}
	table.acknowledge(h, 7, then)
	if got := table.Heard(now); got != then || got >= later {
		t.Errorf("heard %d, want the router to count again with %d", got, then)
	}
}

// I5: a control plane that starts again does not call pods unready that routers know
// from the one before, nor waits in vain for routers, which hear nothing before the
// books are settled.
func TestAPodThatWasReadyBeforeAStartStaysReady(t *testing.T) {
	w := fresh(t, "n1")
	n1 := w.agent("n1")
	w.assign("a", "r1")
	w.report(n1, "a", active)
	w.expect("a", active, "")
	home := Home{Node: "n1", Epoch: n1.pods["a"].GetEpoch(), Content: w.books.pods["a"].content}

	for _, agentFirst := range []bool{true, false} {
		again := newWorld(t, map[string]Home{"a": home, "b": {Node: "n2"}})
		gateway := again.routes.hear("gateway")
		again.agents["n1"] = &fakeAgent{node: "n1", pods: n1.pods, state: n1.state}
		if agentFirst {
			again.connect(again.agent("n1"))
			again.assign("a", "r1")
		} else {
			again.assign("a", "r1")
			again.connect(again.agent("n1"))
		}
		again.assign("b", "r1") // n2, its home, is away
		again.expect("a", active, "")
		again.books.Resynced(again.now)
		again.tick(heardWithin + 500*time.Millisecond)
		again.expect("a", active, "")
		if isClosed(again.books.Settled()) || gateway.missed > 0 {
			t.Errorf("settled: %v; the gateway, which was told nothing, was given up on: %v", isClosed(again.books.Settled()), gateway.missed > 0)
		}
	}
}
