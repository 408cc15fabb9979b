package router

import (
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"pgregory.net/rapid"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

func route(uid, function, address string, leases ...string) *routesv1.Route {
	r := &routesv1.Route{
		PodUid: uid, Namespace: "default", PodName: "pod-" + uid, Function: function,
		Address: address, Port: 8080, Exposed: true, Ready: true, HomeAddress: "127.0.0.1:1",
	}
	for _, lease := range leases {
		r.Instances = append(r.Instances, &routesv1.Instance{LeaseId: lease, Address: "127.0.0.1:2", Nonce: "n-" + lease})
	}
	return r
}

func delta(upserted []*routesv1.Route, removed ...string) *routesv1.WatchResponse {
	return &routesv1.WatchResponse{Generation: 1, Revision: 2, Change: &routesv1.WatchResponse_Delta{
		Delta: &routesv1.Delta{Upserted: upserted, RemovedPodUids: removed}}}
}

func snapshotOf(routes ...*routesv1.Route) *routesv1.WatchResponse {
	return &routesv1.WatchResponse{Generation: 1, Revision: 1, Change: &routesv1.WatchResponse_Snapshot{
		Snapshot: &routesv1.Snapshot{Routes: routes}}}
}

func mustApply(t interface{ Fatalf(string, ...any) }, table *Table, response *routesv1.WatchResponse) Change {
	change, err := table.Apply(response)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	return change
}

func TestTableKeepsCountersOfALeaseAcrossChanges(t *testing.T) {
	table := NewTable()
	mustApply(t, table, snapshotOf(route("a", "f", "10.0.0.1", "lease-1")))
	table.Pod("a").Instances[0].outstanding.Add(3)
	mustApply(t, table, delta([]*routesv1.Route{route("a", "f", "10.0.0.1", "lease-1", "lease-2")}))
	if got := table.Pod("a").Instances[0].Outstanding(); got != 3 {
		t.Errorf("lease-1 has %d outstanding requests after a change of its pod's route, want 3", got)
	}
	if got := table.Pod("a").Instances[1].Outstanding(); got != 0 {
		t.Errorf("new lease-2 begins with %d outstanding requests, want 0", got)
	}
}

func TestTableGivesAnAddressToItsNewOwner(t *testing.T) {
	table := NewTable()
	mustApply(t, table, snapshotOf(route("a", "f", "10.0.0.1")))
	// The address passes to b before a is removed.
	mustApply(t, table, delta([]*routesv1.Route{route("b", "g", "10.0.0.1")}))
	mustApply(t, table, delta(nil, "a"))
	if got := table.Address(netip.MustParseAddr("10.0.0.1")); got == nil || got.UID != "b" {
		t.Errorf("10.0.0.1 is owned by %v, want pod b", got)
	}
}

func TestTableLeavesOutABadRouteAndNamesIt(t *testing.T) {
	table := NewTable()
	bad := route("b", "g", "not an address")
	_, err := table.Apply(snapshotOf(route("a", "f", "10.0.0.1"), bad))
	if err == nil {
		t.Fatal("Apply of a route with a bad address: no error")
	}
	if table.Pod("b") != nil {
		t.Error("the bad route is in the table")
	}
	if table.Pod("a") == nil {
		t.Error("the good route beside it is not in the table")
	}
}

// Whatever order of snapshots and deltas, the look-ups agree with a plain map.
func TestTableAgreesWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := NewTable()
		model := map[string]*routesv1.Route{}
		uids := []string{"a", "b", "c", "d"}
		draw := func(uid string) *routesv1.Route {
			return route(uid, rapid.SampledFrom([]string{"f", "g"}).Draw(t, "function"),
				// Of one owner at a time: the control plane's promise.
				fmt.Sprintf("10.0.%d.%d", slices.Index(uids, uid), rapid.IntRange(1, 2).Draw(t, "host")))
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"snapshot", "upsert", "remove"}).Draw(t, "step") {
			case "snapshot":
				model = map[string]*routesv1.Route{}
				var routes []*routesv1.Route
				for _, uid := range rapid.SliceOfDistinct(rapid.SampledFrom(uids), rapid.ID).Draw(t, "uids") {
					model[uid] = draw(uid)
					routes = append(routes, model[uid])
				}
				mustApply(t, table, snapshotOf(routes...))
			case "upsert":
				uid := rapid.SampledFrom(uids).Draw(t, "uid")
				model[uid] = draw(uid)
				mustApply(t, table, delta([]*routesv1.Route{model[uid]}))
			case "remove":
				uid := rapid.SampledFrom(uids).Draw(t, "uid")
				delete(model, uid)
				mustApply(t, table, delta(nil, uid))
			}
			functions := map[string][]string{}
			for _, uid := range uids {
				pod, want := table.Pod(uid), model[uid]
				if (pod == nil) != (want == nil) {
					t.Fatalf("pod %s: in the table %v, in the model %v", uid, pod != nil, want != nil)
				}
				if want == nil {
					continue
				}
				functions[want.Function] = append(functions[want.Function], uid)
				if owner := table.Address(netip.MustParseAddr(want.Address)); owner != pod {
					t.Fatalf("address %s of %s is owned by %v", want.Address, uid, owner)
				}
			}
			for _, name := range []string{"f", "g"} {
				var got []string
				if f := table.Function(FunctionKey{"default", name}); f != nil {
					for _, pod := range f.Pods {
						got = append(got, pod.UID)
					}
				}
				if !slices.Equal(got, functions[name]) {
					t.Fatalf("function %s has pods %v, want %v", name, got, functions[name])
				}
			}
		}
	})
}

// TestTableTakesManyPodsOfOneFunction: a snapshot must not cost the square of
// their number. Work is measured in bytes allocated, which do not depend on the
// machine.
func TestTableTakesManyPodsOfOneFunction(t *testing.T) {
	const many = 2000
	routes := make([]*routesv1.Route, many)
	for i := range routes {
		routes[i] = route(fmt.Sprint(i), "hello", fmt.Sprintf("10.0.%d.%d", i/250, i%250+1))
	}
	snapshot := snapshotOf(routes...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	table := NewTable()
	mustApply(t, table, snapshot)
	runtime.ReadMemStats(&after)
	if f := table.Function(FunctionKey{Namespace: "default", Name: "hello"}); f == nil || len(f.Pods) != many {
		t.Fatal("pods are missing")
	}
	if n := (after.TotalAlloc - before.TotalAlloc) / many; n > 4000 {
		t.Errorf("%d bytes allocated for each of %d pods", n, many)
	}
}
