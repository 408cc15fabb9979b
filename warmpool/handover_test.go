package warmpool

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// told are the messages that are due at an agent, which it has not obeyed yet.
func (w *world) told(a *fakeAgent) (assigned, withdrawn []string, farewell bool) {
	for _, m := range w.books.Take(a.session) {
		switch {
		case m.GetAssign() != nil:
			assigned = append(assigned, m.GetAssign().GetPodUid())
			a.pods[m.GetAssign().GetPodUid()] = m.GetAssign()
			w.epochs[m.GetAssign().GetPodUid()] = m.GetAssign().GetEpoch()
		case m.GetWithdraw() != nil:
			withdrawn = append(withdrawn, m.GetWithdraw().GetPodUid())
		case m.GetFarewell() != nil:
			farewell = true
		}
	}
	return assigned, withdrawn, farewell
}

// tick lets d go by without anybody obeying anything.
func (w *world) tick(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(250 * time.Millisecond)
		for _, a := range w.agents {
			a.heard = w.now
		}
		w.books.Tick(w.now)
	}
}

func (w *world) routeOf(uid string) (node string, ready bool, instances int) {
	r := w.routes.routes[uid]
	return r.GetHomeNode(), r.GetReady(), len(r.GetInstances())
}

// leaves is a world in which n1 has the pod "a", active, and n2 none.
func leaves(t rapid.TB) (w *world, n1, n2 *fakeAgent) {
	w = fresh(t, "n1")
	n1 = w.agent("n1")
	w.assign("a", "r1")
	w.report(n1, "a", active)
	n2 = w.agent("n2")
	w.connect(n2)
	return w, n1, n2
}

func wantRoute(t *testing.T, w *world, uid, node string, instances int) {
	t.Helper()
	if n, ready, i := w.routeOf(uid); n != node || !ready || i != instances {
		t.Fatalf("the route of %s leads to %s, ready %v, with %d instances; want %s, ready, with %d", uid, n, ready, i, node, instances)
	}
}

func TestALeavingAgentServesUntilAnotherIsReady(t *testing.T) {
	w, n1, n2 := leaves(t)
	gateway := w.routes.hear("gateway")
	w.routes.acknowledge(gateway, 7, w.routes.Current())
	first := n1.pods["a"].GetEpoch()
	w.books.Leave(n1.session, w.now)

	// Another is told; nobody notices.
	if assigned, withdrawn, bye := w.told(n2); len(assigned) != 1 || len(withdrawn) != 0 || bye {
		t.Fatalf("n2 was told %v, %v, %v", assigned, withdrawn, bye)
	}
	if compareEpochs(n2.pods["a"].GetEpoch(), first) <= 0 || !n2.pods["a"].GetStartParked() {
		t.Fatalf("n2 was given %v", n2.pods["a"])
	}
	w.report(n2, "a", preparing)
	w.tick(5 * time.Second)
	wantRoute(t, w, "a", "n1", 1)
	w.expect("a", active, "")
	if _, withdrawn, bye := w.told(n1); len(withdrawn) != 0 || bye {
		t.Fatalf("n1 was told %v, %v, before n2 was ready", withdrawn, bye)
	}
	// The former home's word counts, parking included.
	w.report(n1, "a", parked)
	w.expect("a", parked, "")
	wantRoute(t, w, "a", "n1", 0)
	w.report(n1, "a", active)
	wantRoute(t, w, "a", "n1", 1)

	// The other is ready: the route leads there, and both serve for a moment.
	w.report(n2, "a", parked)
	w.expect("a", parked, "")
	wantRoute(t, w, "a", "n2", 0)
	w.report(n1, "a", active) // no word of it counts any more
	wantRoute(t, w, "a", "n2", 0)
	w.tick(heardWithin / 2)
	if _, withdrawn, bye := w.told(n1); len(withdrawn) != 0 || bye {
		t.Fatalf("n1 was told %v, %v, before routers knew", withdrawn, bye)
	}
	w.routes.acknowledge(gateway, 7, w.routes.Current())
	w.tick(250 * time.Millisecond)
	if _, withdrawn, bye := w.told(n1); len(withdrawn) != 1 || !bye {
		t.Fatalf("n1 was told %v, farewell %v", withdrawn, bye)
	}
	w.tick(time.Second)
	if assigned, withdrawn, bye := w.told(n1); len(assigned)+len(withdrawn) != 0 || bye {
		t.Errorf("n1 was told more: %v %v %v", assigned, withdrawn, bye)
	}
}

func TestAServerIsStartedThereBeforeItIsEndedHere(t *testing.T) {
	w, n1, n2 := leaves(t)
	w.books.ReportPod(n1.session, &agentv1.PodStatus{
		PodUid: "a", Epoch: n1.pods["a"].GetEpoch(), State: active, Stays: true,
		Instance: &agentv1.Instance{LeaseId: "l", Address: "n1:20000", Nonce: "n"},
	}, w.now)
	w.books.Leave(n1.session, w.now)
	w.told(n2)
	if n2.pods["a"].GetStartParked() {
		t.Error("a server begins parked")
	}
	w.report(n2, "a", preparing)
	w.tick(time.Minute)
	wantRoute(t, w, "a", "n1", 1)
	w.report(n2, "a", active)
	wantRoute(t, w, "a", "n2", 1)
}

func TestALeavingAgentWithoutANeighbourKeepsItsPods(t *testing.T) {
	w := fresh(t, "n1")
	n1 := w.agent("n1")
	w.assign("a", "r1")
	w.report(n1, "a", active)
	w.books.Leave(n1.session, w.now)
	if _, withdrawn, bye := w.told(n1); len(withdrawn) != 0 || !bye {
		t.Fatalf("n1 was told %v, farewell %v; want the farewell alone, at once", withdrawn, bye)
	}
	w.assign("b", "r2") // nothing new is placed there
	w.expect("b", preparing, "NoAgent")
	wantRoute(t, w, "a", "n1", 1)
	w.disconnect(n1)
	w.pass(10 * time.Second)
	wantRoute(t, w, "a", "n1", 1)
	clear(n1.pods) // its next process
	clear(n1.state)
	w.connect(n1)
	w.expect("a", parked, "")
	w.expect("b", preparing, "")
	if n1.pods["b"] == nil {
		t.Error("the agent that came back gets nothing new")
	}
}

func TestWhatDoesNotFitElsewhereStays(t *testing.T) {
	w := fresh(t, "n1", "n2")
	for i := range 8 { // each takes five
		w.assign(fmt.Sprint(i), fmt.Sprint("r", i))
	}
	n1, n2 := w.agent("n1"), w.agent("n2")
	for _, a := range w.agents {
		for uid := range a.pods {
			w.report(a, uid, active)
		}
	}
	w.books.Leave(n1.session, w.now)
	w.pass(5 * time.Second)
	if len(n2.pods) != 5 || len(n1.pods) != 3 {
		t.Errorf("n1 has %d and n2 %d pods, want 3 and 5", len(n1.pods), len(n2.pods))
	}
	for i := range 8 {
		if node, ready, _ := w.routeOf(fmt.Sprint(i)); !ready || w.agent(node).pods[fmt.Sprint(i)] == nil {
			t.Errorf("pod %d: %s, ready %v", i, node, ready)
		}
	}
	if n1.session.farewell != farewellSaid {
		t.Error("n1 waits for a farewell")
	}
}

func TestAPodThatIsNotReadyIsNotHandedOver(t *testing.T) {
	w, n1, n2 := leaves(t)
	w.report(n1, "a", failed)
	w.books.Leave(n1.session, w.now)
	w.deliver()
	if n1.pods["a"] != nil || n2.pods["a"] == nil {
		t.Error("the pod was not moved at once")
	}
}

func TestAHandoverIsOvertaken(t *testing.T) {
	for name, c := range map[string]struct {
		event func(w *world, n1, n2 *fakeAgent)
		check func(t *testing.T, w *world, n1, n2 *fakeAgent)
	}{
		"the pod is deleted": {
			func(w *world, _, _ *fakeAgent) { w.books.Withdraw("a", 7*time.Second, w.now); w.deliver() },
			func(t *testing.T, w *world, n1, n2 *fakeAgent) {
				if len(n1.pods)+len(n2.pods) != 0 || w.books.Status("a") != nil {
					t.Errorf("still there: %v %v %v", n1.pods, n2.pods, w.books.Status("a"))
				}
			},
		},
		"the pod changes": {
			func(w *world, _, _ *fakeAgent) { w.assign("a", "r2") },
			func(t *testing.T, w *world, n1, n2 *fakeAgent) {
				if n1.pods["a"] != nil || n2.pods["a"].GetRevision() != "r2" {
					t.Errorf("n1 has %v, n2 %v", n1.pods["a"], n2.pods["a"])
				}
			},
		},
		"the leaving agent's stream ends": {
			func(w *world, n1, _ *fakeAgent) { w.disconnect(n1) },
			func(t *testing.T, w *world, _, n2 *fakeAgent) {
				w.expect("a", preparing, "")
				w.report(n2, "a", parked)
				wantRoute(t, w, "a", "n2", 0)
			},
		},
		"the leaving agent says hello again": {
			func(w *world, n1, _ *fakeAgent) { w.connect(n1) },
			func(t *testing.T, w *world, n1, n2 *fakeAgent) {
				if n1.pods["a"] != nil {
					t.Error("it keeps what it has handed over")
				}
				w.report(n2, "a", parked)
				wantRoute(t, w, "a", "n2", 0)
			},
		},
		"the leaving agent lets go": {
			func(w *world, n1, _ *fakeAgent) {
				w.books.ReportPod(n1.session, &agentv1.PodStatus{PodUid: "a", Epoch: n1.pods["a"].GetEpoch(), State: goneState}, w.now)
			},
			func(t *testing.T, w *world, _, n2 *fakeAgent) {
				w.report(n2, "a", parked)
				wantRoute(t, w, "a", "n2", 0)
			},
		},
		"it does not load there": {
			func(w *world, _, n2 *fakeAgent) { w.report(n2, "a", failed) },
			func(t *testing.T, w *world, n1, _ *fakeAgent) {
				wantRoute(t, w, "a", "n1", 1)
				w.disconnect(n1)
				w.expect("a", failed, "SyntaxError")
			},
		},
		"its container dies here": {
			func(w *world, n1, _ *fakeAgent) { w.report(n1, "a", failed); w.deliver() },
			func(t *testing.T, w *world, n1, n2 *fakeAgent) {
				if n1.pods["a"] != nil {
					t.Error("it is kept where it does not serve")
				}
				w.report(n2, "a", parked)
				wantRoute(t, w, "a", "n2", 0)
			},
		},
		"the new home dies": {
			func(w *world, _, n2 *fakeAgent) {
				w.disconnect(n2)
				clear(n2.pods)
				clear(n2.state)
				w.tick(reconnectWithin + time.Second)
			},
			func(t *testing.T, w *world, n1, _ *fakeAgent) {
				wantRoute(t, w, "a", "n1", 1)
				n3 := w.agent("n3")
				w.connect(n3)
				w.expect("a", parked, "")
				wantRoute(t, w, "a", "n3", 0)
				w.pass(3 * time.Second)
				if n1.pods["a"] != nil || n1.session.farewell != farewellSaid {
					t.Error("n1 still waits")
				}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, n1, n2 := leaves(t)
			w.books.Leave(n1.session, w.now)
			w.told(n2)
			w.report(n2, "a", preparing)
			c.event(w, n1, n2)
			c.check(t, w, n1, n2)
		})
	}
}

func TestManyPodsAreHandedOverInParts(t *testing.T) {
	const many = 3 * handOverAtOnce
	w := fresh(t)
	hello := &agentv1.Hello{NodeName: "n1", DataAddress: "n1:7070", Runtimes: []string{"node24"}}
	connect := func(node string) *fakeAgent {
		a := w.agent(node)
		h := hello
		h.NodeName, h.DataAddress = node, node+":7070"
		session, err := w.books.Connect(h, func() time.Time { return w.now }, w.now)
		if err != nil {
			t.Fatal(err)
		}
		a.session = session
		w.deliver()
		return a
	}
	n1 := connect("n1")
	w.assign("0", "r1")
	w.report(n1, "0", active)
	for i := range many {
		w.assign(fmt.Sprint(i), "r1")
	}
	hello = &agentv1.Hello{Runtimes: []string{"node24"}}
	n2 := connect("n2")
	w.books.Leave(n1.session, w.now)
	if assigned, _, _ := w.told(n2); len(assigned) != handOverAtOnce {
		t.Fatalf("%d pods at once, want %d", len(assigned), handOverAtOnce)
	}
	for uid := range n2.pods {
		w.report(n2, uid, parked)
	}
	w.pass(5 * time.Second)
	if len(n2.pods) != many || len(n1.pods) != 0 || n1.session.farewell != farewellSaid {
		t.Errorf("n2 has %d pods, n1 %d; farewell %v", len(n2.pods), len(n1.pods), n1.session.farewell)
	}
}

// I5 in a handover: however slow agents and messages are, a pod that was ready
// when its agent began to leave, or two did, is ready all the time, and its route leads to an
// agent that serves it. Its epochs grow. In the end it is at one agent, no
// leaving one.
func TestI5AHandoverRefusesNobody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := fresh(t, "n1", "n2", "n3")
		uids := []string{"a", "b", "c", "d"}
		for _, uid := range uids {
			w.assign(uid, "r-"+uid)
			for _, a := range w.agents {
				if a.pods[uid] != nil {
					w.report(a, uid, active)
				}
			}
		}
		leavers := map[*fakeAgent]bool{}
		leave := func(t *rapid.T) {
			if len(leavers) < 2 { // one remains
				a := w.agent(rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "leaver"))
				leavers[a] = true
				w.books.Leave(a.session, w.now)
			}
		}
		leave(t)
		withdrawals := map[*fakeAgent][]string{}
		check := func() {
			for _, uid := range uids {
				node, ready, _ := w.routeOf(uid)
				s := w.books.Status(uid)
				if !ready || !isReady(s) {
					t.Fatalf("pod %s is %v, its route ready: %v", uid, s, ready)
				}
				held := w.agent(node).state[uid]
				if w.agent(node).pods[uid] == nil || !isReady(held) {
					t.Fatalf("the route of pod %s leads to %s, which has it as %v", uid, node, held)
				}
			}
		}
		hear := func(a *fakeAgent) {
			for _, m := range w.books.Take(a.session) {
				switch {
				case m.GetAssign() != nil:
					w.takeSlowly(a, m.GetAssign())
				case m.GetWithdraw() != nil:
					withdrawals[a] = append(withdrawals[a], m.GetWithdraw().GetPodUid())
				}
			}
		}
		obey := func(a *fakeAgent) {
			for _, uid := range withdrawals[a] {
				if held := a.pods[uid]; held != nil {
					delete(a.pods, uid)
					delete(a.state, uid)
					w.books.ReportPod(a.session, &agentv1.PodStatus{PodUid: uid, Epoch: held.GetEpoch(), State: goneState}, w.now)
				}
			}
			withdrawals[a] = nil
		}
		agent := func(t *rapid.T) *fakeAgent {
			return w.agent(rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "agent"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"hear": func(t *rapid.T) { hear(agent(t)) },
			"obey": func(t *rapid.T) { obey(agent(t)) },
			"ready": func(t *rapid.T) {
				a, uid := agent(t), rapid.SampledFrom(uids).Draw(t, "uid")
				if a.pods[uid] != nil {
					w.report(a, uid, rapid.SampledFrom([]agentv1.PodState{active, parked}).Draw(t, "state"))
				}
			},
			"not yet": func(t *rapid.T) {
				a, uid := agent(t), rapid.SampledFrom(uids).Draw(t, "uid")
				if a.pods[uid] != nil && !isReady(a.state[uid]) {
					w.report(a, uid, rapid.SampledFrom([]agentv1.PodState{preparing, failed}).Draw(t, "state"))
				}
			},
			"tick":  func(*rapid.T) { w.tick(time.Second) },
			"leave": leave,
			"":      func(*rapid.T) { check() },
		})
		for range 4 {
			for _, a := range w.agents {
				hear(a)
				obey(a)
				for uid := range a.pods {
					if !isReady(a.state[uid]) {
						w.report(a, uid, parked)
					}
				}
				check()
			}
			w.tick(2 * time.Second)
		}
		for _, uid := range uids {
			node, _, _ := w.routeOf(uid)
			for _, a := range w.agents {
				if holds := a.pods[uid] != nil; holds != (a.node == node) || holds && leavers[a] {
					t.Errorf("pod %s: %s has it: %v; it is at home at %s", uid, a.node, holds, node)
				}
			}
		}
		for a := range leavers {
			if a.session.farewell != farewellSaid {
				t.Errorf("the leaving agent %s waits", a.node)
			}
		}
	})
}

// takeSlowly is take without a report.
func (w *world) takeSlowly(a *fakeAgent, assignment *agentv1.Assignment) {
	uid := assignment.GetPodUid()
	if compareEpochs(assignment.GetEpoch(), w.epochs[uid]) < 0 {
		w.t.Fatalf("pod %s was given to %s under epoch %v, after %v", uid, a.node, assignment.GetEpoch(), w.epochs[uid])
	}
	w.epochs[uid] = assignment.GetEpoch()
	if held := a.pods[uid]; held == nil || compareEpochs(held.GetEpoch(), assignment.GetEpoch()) != 0 {
		a.pods[uid] = assignment
		delete(a.state, uid)
	}
}
