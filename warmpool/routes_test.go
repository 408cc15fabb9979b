package warmpool

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// watcher is a table fed by Next, as a router keeps one.
type watcher struct {
	generation, revision uint64
	routes               map[string]*routesv1.Route
	snapshots            int
}

func (w *watcher) apply(r *routesv1.WatchResponse) {
	w.generation, w.revision = r.GetGeneration(), r.GetRevision()
	if s := r.GetSnapshot(); s != nil {
		w.snapshots++
		w.routes = make(map[string]*routesv1.Route)
		for _, route := range s.GetRoutes() {
			w.routes[route.GetPodUid()] = route
		}
	}
	for _, route := range r.GetDelta().GetUpserted() {
		w.routes[route.GetPodUid()] = route
	}
	for _, uid := range r.GetDelta().GetRemovedPodUids() {
		delete(w.routes, uid)
	}
}

// TestWatchersAgree: whatever is set and removed, and whenever a watcher looks,
// it sees the table as it is at that revision.
func TestWatchersAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := NewRouteTable(3)
		watchers := []*watcher{{}, {}}
		uid := rapid.StringMatching(`[a-d]`)
		t.Repeat(map[string]func(*rapid.T){
			"set": func(t *rapid.T) {
				table.Set(&routesv1.Route{PodUid: uid.Draw(t, "uid"), Port: rapid.Uint32Range(0, 2).Draw(t, "port")})
			},
			"remove": func(t *rapid.T) { table.Remove(uid.Draw(t, "uid")) },
			"look": func(t *rapid.T) {
				w := rapid.SampledFrom(watchers).Draw(t, "watcher")
				if w.generation == 3 && w.revision == table.revision {
					return // it would wait
				}
				r, err := table.Next(context.Background(), w.generation, w.revision)
				if err != nil {
					t.Fatal(err)
				}
				w.apply(r)
				if !maps.EqualFunc(w.routes, table.routes, func(a, b *routesv1.Route) bool { return proto.Equal(a, b) }) {
					t.Fatalf("the watcher has %v, the table %v", w.routes, table.routes)
				}
				if w.snapshots > 1 {
					t.Fatal("a second snapshot within history")
				}
			},
		})
	})
}

func TestNextWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := NewRouteTable(1)
		table.Set(&routesv1.Route{PodUid: "a"})
		got := make(chan *routesv1.WatchResponse, 1)
		go func() {
			r, err := table.Next(t.Context(), 1, 1)
			if err != nil {
				t.Error(err)
			}
			got <- r
		}()
		synctest.Wait()
		table.Set(&routesv1.Route{PodUid: "a"}) // no change
		synctest.Wait()
		if len(got) != 0 {
			t.Fatal("an equal route woke the watcher")
		}
		table.Remove("a")
		if uids := (<-got).GetDelta().GetRemovedPodUids(); !slices.Equal(uids, []string{"a"}) {
			t.Errorf("removed %v, want a", uids)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := table.Next(ctx, 1, 2); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestWatcherTooFarBehindGetsASnapshot(t *testing.T) {
	table := NewRouteTable(1)
	for i := range 3 * routeHistory {
		table.Set(&routesv1.Route{PodUid: fmt.Sprint(i % 10), Port: uint32(i)})
	}
	for revision, wantSnapshot := range map[uint64]bool{1: true, 3*routeHistory - 1: false, 2 * routeHistory: false, 3*routeHistory + 1: true} {
		r, err := table.Next(t.Context(), 1, revision)
		if err != nil {
			t.Fatal(err)
		}
		if (r.GetSnapshot() != nil) != wantSnapshot {
			t.Errorf("revision %d: snapshot %v, want %v", revision, r.GetSnapshot() != nil, wantSnapshot)
		}
	}
	if r, err := table.Next(t.Context(), 2, 5); err != nil || r.GetSnapshot() == nil {
		t.Errorf("another generation: %v, %v, want a snapshot", r, err)
	}
	if len(table.history) > 2*routeHistory {
		t.Errorf("history grew to %d", len(table.history))
	}
}
