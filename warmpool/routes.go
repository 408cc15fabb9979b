package warmpool

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// routeHistory bounds how many changes a watcher may be behind and still be
// brought up to date by a delta; one further behind gets a snapshot.
const routeHistory = 16384

// RouteTable holds the routes of this run of the control plane and numbers
// their changes. Writers never wait for watchers: a watcher takes what has
// changed since its last revision whenever it is ready, so a slow one merely
// sees several changes as one. It is safe for concurrent use.
type RouteTable struct {
	generation uint64

	mu       sync.Mutex
	revision uint64
	routes   map[string]*routesv1.Route
	history  []string      // pod UIDs; the last is the change to revision
	changed  chan struct{} // closed and replaced at every change
	hearers  map[*hearer]bool
}

// NewRouteTable returns an empty table whose revisions belong to generation.
func NewRouteTable(generation uint64) *RouteTable {
	return &RouteTable{generation: generation, routes: make(map[string]*routesv1.Route), changed: make(chan struct{}), hearers: make(map[*hearer]bool)}
}

// Set adds or replaces the route of its pod. The table keeps route, which must
// not be changed afterwards. An equal route is no change. Whoever has the revision
// that is returned has the route.
func (t *RouteTable) Set(route *routesv1.Route) (revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.routes[route.GetPodUid()]; ok && proto.Equal(old, route) {
		return t.revision
	}
	t.routes[route.GetPodUid()] = route
	t.note(route.GetPodUid())
	return t.revision
}

// Remove takes the route of a pod away.
func (t *RouteTable) Remove(podUID string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.routes[podUID]; !ok {
		return
	}
	delete(t.routes, podUID)
	t.note(podUID)
}

func (t *RouteTable) note(podUID string) {
	t.revision++
	t.history = append(t.history, podUID)
	if len(t.history) > 2*routeHistory {
		t.history = slices.Clone(t.history[len(t.history)-routeHistory:])
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// Len is how many routes there are, and how many of them are ready.
func (t *RouteTable) Len() (all, ready int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.routes {
		if r.GetReady() {
			ready++
		}
	}
	return len(t.routes), ready
}

// Next waits until there is something beyond (generation, revision) and
// returns it: a delta where history reaches back, else a snapshot. Only ctx
// makes it fail.
func (t *RouteTable) Next(ctx context.Context, generation, revision uint64) (*routesv1.WatchResponse, error) {
	for {
		t.mu.Lock()
		response := t.since(generation, revision)
		changed := t.changed
		t.mu.Unlock()
		if response != nil {
			return response, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (t *RouteTable) since(generation, revision uint64) *routesv1.WatchResponse {
	response := &routesv1.WatchResponse{Generation: t.generation, Revision: t.revision}
	oldest := t.revision - uint64(len(t.history))
	if generation != t.generation || revision > t.revision || revision < oldest {
		snapshot := &routesv1.Snapshot{Routes: make([]*routesv1.Route, 0, len(t.routes))}
		for _, route := range t.routes {
			snapshot.Routes = append(snapshot.Routes, route)
		}
		response.Change = &routesv1.WatchResponse_Snapshot{Snapshot: snapshot}
		return response
	}
	if revision == t.revision {
		return nil
	}
	delta := &routesv1.Delta{}
	seen := make(map[string]bool)
	for _, uid := range t.history[revision-oldest:] {
		if seen[uid] {
			continue
		}
		seen[uid] = true
		if route, ok := t.routes[uid]; ok {
			delta.Upserted = append(delta.Upserted, route)
		} else {
			delta.RemovedPodUids = append(delta.RemovedPodUids, uid)
		}
	}
	response.Change = &routesv1.WatchResponse_Delta{Delta: delta}
	return response
}
