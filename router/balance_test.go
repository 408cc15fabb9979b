package router

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// functionOf makes function "f" of routes.
func functionOf(t *testing.T, policy *routesv1.Policy, routes ...*routesv1.Route) *Function {
	t.Helper()
	for _, r := range routes {
		r.Policy = policy
	}
	table := NewTable()
	mustApply(t, table, snapshotOf(routes...))
	return table.Function(FunctionKey{"default", "f"})
}

func (f *Function) mustAcquire(t *testing.T, tried *tries, node string) choice {
	t.Helper()
	c, v := f.acquire(tried, node)
	if v != chosen {
		t.Fatalf("acquire: %v, want a choice", v)
	}
	return c
}

func TestTheLeastOutstandingIsChosen(t *testing.T) {
	f := functionOf(t, nil, route("a", "f", "10.0.0.1", "L1"), route("b", "f", "10.0.0.2", "L2"), route("c", "f", "10.0.0.3"))
	f.Pods[0].Instances[0].outstanding.Add(1)
	if got := f.mustAcquire(t, &tries{}, ""); got.pod.UID != "b" {
		t.Errorf("chose pod %s, want b, which has less to do", got.pod.UID)
	}
	f.Pods[0].Instances[0].outstanding.Add(spillAt)
	f.Pods[1].Instances[0].outstanding.Add(spillAt)
	for range 3 {
		if got := f.mustAcquire(t, &tries{}, ""); got.pod.UID != "c" || got.instance != nil {
			t.Errorf("chose pod %s, want the parked c while all containers are busy", got.pod.UID)
		}
	}
	gone := []homed{{"a", "127.0.0.1:1"}, {"b", "127.0.0.1:1"}, {"c", "127.0.0.1:1"}}
	if _, v := f.acquire(&tries{gone: gone}, ""); v != nowhere {
		t.Errorf("with every pod passed over: %v, want nowhere", v)
	}
	if got := f.mustAcquire(t, &tries{refusedBy: []string{"L1", "L2"}, gone: gone[:1]}, ""); got.instance != nil {
		t.Error("chose an instance that has refused the request")
	}
}

func TestOneParkedPodIsWokenHoweverManyAsk(t *testing.T) {
	f := functionOf(t, nil, route("b", "f", "10.0.0.2"), route("a", "f", "10.0.0.1"))
	for range 100 {
		if got := f.mustAcquire(t, &tries{}, ""); got.pod.UID != "a" {
			t.Fatalf("pod %s was asked", got.pod.UID)
		}
	}
}

func TestTheOwnNodeComesFirstWhileItHasLittleToDo(t *testing.T) {
	far, near := route("a", "f", "10.0.0.1", "L1"), route("b", "f", "10.0.0.2", "L2")
	far.HomeNode, near.HomeNode = "far", "near"
	f := functionOf(t, nil, far, near)
	for i := range localUpTo {
		if got := f.mustAcquire(t, &tries{}, "near"); got.pod.UID != "b" {
			t.Fatalf("request %d went to another node", i)
		}
	}
	if got := f.mustAcquire(t, &tries{}, "near"); got.pod.UID != "a" {
		t.Error("an idle container of another node was passed over for a busy one")
	}
}

func TestAnInstanceHasNoMoreThanItsConcurrency(t *testing.T) {
	f := functionOf(t, &routesv1.Policy{Concurrency: 2}, route("a", "f", "10.0.0.1", "L1"), route("b", "f", "10.0.0.2"))
	var held []choice
	for range 4 {
		held = append(held, f.mustAcquire(t, &tries{}, ""))
	}
	if n := f.Pods[0].Instances[0].Outstanding(); n != 2 {
		t.Errorf("the instance has %d requests, want 2", n)
	}
	if n := f.Pods[1].home.outstanding.Load(); n != 2 {
		t.Errorf("the parked pod's home has %d requests, want 2", n)
	}
	if _, v := f.acquire(&tries{}, ""); v != busy {
		t.Errorf("a fifth request: %v, want busy", v)
	}
	f.release(held[0])
	f.mustAcquire(t, &tries{}, "")

	// The parked pod's container is known now: what its home was sent counts there.
	table := NewTable()
	mustApply(t, table, snapshotOf(parkedRoute("h")))
	parked := table.Function(FunctionKey{"default", "hello"})
	parked.mustAcquire(t, &tries{}, "")
	active := warmRoute("c", "h")
	active.Policy = &routesv1.Policy{Concurrency: 1}
	mustApply(t, table, delta([]*routesv1.Route{active}))
	if _, v := table.Function(FunctionKey{"default", "hello"}).acquire(&tries{}, ""); v != busy {
		t.Errorf("while its home has a request: %v, want busy", v)
	}
}

// However many ask at once, no instance has more than its share at any moment.
func TestConcurrencyHoldsUnderRace(t *testing.T) {
	f := functionOf(t, &routesv1.Policy{Concurrency: 1}, route("a", "f", "10.0.0.1", "L1"))
	var inside atomic.Int64
	var tooMany atomic.Bool
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for range 50_000 {
				c, v := f.acquire(&tries{}, "")
				if v != chosen {
					continue
				}
				if inside.Add(1) > 1 {
					tooMany.Store(true)
				}
				inside.Add(-1)
				f.release(c)
			}
		})
	}
	group.Wait()
	if tooMany.Load() {
		t.Error("the instance had two requests at once, of one that it is given")
	}
	if n := f.Pods[0].Instances[0].Outstanding(); n != 0 {
		t.Errorf("the instance is left with %d requests", n)
	}
}

// Two requests that have chosen the last place do not both get it.
func TestTheLastPlaceIsGivenOnce(t *testing.T) {
	f := functionOf(t, &routesv1.Policy{Concurrency: 1}, route("a", "f", "10.0.0.1", "L1"))
	first, _ := f.pick(&tries{}, "", 1)
	second, _ := f.pick(&tries{}, "", 1)
	if !f.claim(first, 1) || f.claim(second, 1) {
		t.Error("the last place was given to none or to both")
	}
	if n := first.instance.Outstanding(); n != 1 {
		t.Errorf("%d requests are counted, want 1", n)
	}
}

func TestWhatFailsRests(t *testing.T) {
	f := functionOf(t, nil, route("a", "f", "10.0.0.1", "L1"), route("b", "f", "10.0.0.2", "L2"))
	first, second := f.Pods[0].Instances[0], f.Pods[1].Instances[0]
	first.failed(nanos())
	for range 20 {
		if got := f.mustAcquire(t, &tries{}, ""); got.instance != second {
			t.Fatal("an instance that failed a moment ago was chosen beside a good one")
		}
	}
	second.failed(nanos())
	if got := f.mustAcquire(t, &tries{}, ""); got.instance != nil {
		t.Error("both instances have failed, and one of them was chosen in place of a home agent")
	}
	// A home agent that fails, too, is better than nothing.
	f.Pods[0].home.failed(nanos())
	f.Pods[1].home.failed(nanos())
	f.mustAcquire(t, &tries{}, "")
	first.answered()
	if got := f.mustAcquire(t, &tries{}, ""); got.instance != first {
		t.Error("an instance that works again was not chosen")
	}
}

func TestRestGrowsAndIsBounded(t *testing.T) {
	e := new(endpoint)
	for i, want := range []int64{1, 2, 4, 8, 16, 30, 30, 30} {
		e.failed(1e9)
		if got := e.restUntil.Load()/1e9 - 1; got != want {
			t.Errorf("after %d failures in a row it rests for %d s, want %d", i+1, got, want)
		}
	}
	e.answered()
	if e.failed(1e9); e.restUntil.Load() != 2e9 {
		t.Error("a success did not end the row of failures")
	}
	if e.restUntil.Store(nanos() - 1); e.resting() {
		t.Error("it rests though its time is over")
	}
}

func TestTheNewestPodsPolicyHolds(t *testing.T) {
	older, newer := route("a", "f", "10.0.0.1"), route("b", "f", "10.0.0.2")
	older.CreatedUnix, newer.CreatedUnix = 1, 2
	older.Policy, newer.Policy = &routesv1.Policy{MaxBodyBytes: 1}, &routesv1.Policy{MaxBodyBytes: 2}
	newer.Ready = false
	table := NewTable()
	mustApply(t, table, snapshotOf(older, newer))
	if f := table.Function(FunctionKey{"default", "f"}); f.policy.maxBody != 1 {
		t.Errorf("the policy of a pod that is not ready holds")
	}
	ready := route("b", "f", "10.0.0.2")
	ready.CreatedUnix, ready.Policy = 2, newer.Policy
	mustApply(t, table, delta([]*routesv1.Route{ready}))
	f := table.Function(FunctionKey{"default", "f"})
	if f.policy.maxBody != 2 {
		t.Errorf("the policy of the older pod holds")
	}
	// What is remembered of the function stays while its routes change, and an equal
	// policy is the same one.
	mustApply(t, table, delta([]*routesv1.Route{route("c", "f", "10.0.0.3")}))
	if next := table.Function(f.Key); next.state != f.state || next.policy != f.policy {
		t.Error("a changed route begins the function's state or policy anew")
	}
}

func TestIndexAgreesWithAMap(t *testing.T) {
	x := newIndex[int]()
	model := map[FunctionKey]int{}
	for round := range 200 {
		changes := map[FunctionKey]change[int]{}
		for i := range 20 {
			key := FunctionKey{"n", fmt.Sprint((round*7 + i*13) % 500)}
			changes[key] = change[int]{value: round, removed: (round+i)%3 == 0}
		}
		x.update(changes)
		for key, c := range changes {
			if c.removed {
				delete(model, key)
			} else {
				model[key] = c.value
			}
		}
	}
	for i := range 500 {
		key := FunctionKey{"n", fmt.Sprint(i)}
		if got := x.get(key); got != model[key] {
			t.Errorf("%v is %d, want %d", key, got, model[key])
		}
	}
	if x.get(FunctionKey{"other", "1"}) != 0 {
		t.Error("a key of another namespace is there")
	}
}
