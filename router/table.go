package router

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// FunctionKey names a function.
type FunctionKey struct {
	Namespace string
	Name      string
}

// String is "namespace/name".
func (k FunctionKey) String() string { return k.Namespace + "/" + k.Name }

// Function is the pods of one function as they were at one moment. It is
// immutable; only the counters of its instances and its state move.
type Function struct {
	Key FunctionKey
	// Pods are ordered by UID, so that everybody who has to choose one parked
	// pod to wake chooses the same.
	Pods []*Pod
	// Exposed says whether the gateway may serve any of them.
	Exposed bool
	// Owners are those of the pods that the gateway could serve, in order. More than
	// one is a clash: pods of different owners are not one function.
	Owners []string

	// active and parked are the pods that the gateway may choose from, exposed and
	// ready: with instances and without, of which there may be thousands.
	active, parked []*Pod
	// policy is that of the newest of them, read from asked.
	policy *Policy
	asked  *routesv1.Policy
	state  *functionState
}

// Pod is one function pod that answers, or soon will. It is immutable.
type Pod struct {
	UID      string
	Name     string
	Function FunctionKey
	Revision string
	// Address is the pod's IP address, Address6 its IPv6 one beside it, invalid if
	// it has none; Port is what it serves there.
	Address, Address6 netip.Addr
	Port              uint16
	// Exposed says whether the gateway may serve it.
	Exposed bool
	// Owner is the pod's top controller, Created when it was made, in seconds since
	// 1970.
	Owner   string
	Created int64
	// Ready is false while its function does not load.
	Ready bool
	// HomeNode is the Kubernetes node of the pod's home agent, HomeAddress the
	// host:port of that agent's listener for requests.
	HomeNode    string
	HomeAddress string
	// Instances are the containers that serve it; none while it is parked.
	Instances []*Instance
	// home is the home agent as the way to this pod.
	home *endpoint
}

// Addresses yields the pod's IP addresses.
func (p *Pod) Addresses(yield func(netip.Addr) bool) {
	if yield(p.Address) && p.Address6.IsValid() {
		yield(p.Address6)
	}
}

// Instance is one leased container.
type Instance struct {
	Lease   string
	Address string
	Nonce   string
	*endpoint
}

// Outstanding is how many requests of this process are at the instance.
func (i *Instance) Outstanding() int64 { return i.outstanding.Load() }

// Table is the routes a router knows. Look-ups take no lock and may be called
// from any number of goroutines; what they return is immutable. Apply must not
// be called concurrently with itself. The zero Table is not usable; see
// [NewTable].
type Table struct {
	mu         sync.Mutex
	generation uint64
	revision   uint64
	routes     map[string]*routesv1.Route // by pod UID, what a snapshot on disk is made of
	byFunction map[FunctionKey]map[string]*Pod
	// touched are the functions whose pods the Apply that runs has changed. Each
	// is published once, at its end: a function of 10,000 pods would otherwise be
	// sorted 10,000 times for one snapshot.
	touched map[FunctionKey]bool

	functions *index[*Function]
	addresses sync.Map // netip.Addr → *Pod
	pods      sync.Map // pod UID → *Pod
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{
		routes:     make(map[string]*routesv1.Route),
		byFunction: make(map[FunctionKey]map[string]*Pod),
		touched:    make(map[FunctionKey]bool),
		functions:  newIndex[*Function](),
	}
}

// Function returns the pods of a function, or nil when no pod of it is known. It
// does not allocate.
func (t *Table) Function(key FunctionKey) *Function { return t.functions.get(key) }

// Address returns the pod that owns an IP address, or nil.
func (t *Table) Address(addr netip.Addr) *Pod {
	p, ok := t.addresses.Load(addr.Unmap())
	if !ok {
		return nil
	}
	return p.(*Pod)
}

// Pod returns the pod of a UID, or nil.
func (t *Table) Pod(uid string) *Pod {
	p, ok := t.pods.Load(uid)
	if !ok {
		return nil
	}
	return p.(*Pod)
}

// Position is the (generation, revision) the table stands at, which is where a
// broken watch goes on. Zero: nothing was applied yet.
func (t *Table) Position() (generation, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.generation, t.revision
}

// Change tells which pods an Apply touched.
type Change struct {
	Upserted []*Pod
	Removed  []*Pod
}

// Apply brings the table to the response's revision and returns what changed.
// A route that is not well formed (an address that does not parse, no UID)
// is left out and named in the error; everything else is applied all the same.
func (t *Table) Apply(response *routesv1.WatchResponse) (Change, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var change Change
	var bad error
	upsert := func(route *routesv1.Route) {
		pod, err := t.podOf(route)
		if err != nil {
			if bad == nil {
				bad = err
			}
			// A route that cannot be read is no route; keeping the old one
			// would send requests to where the pod no longer is.
			if old := t.remove(route.GetPodUid()); old != nil {
				change.Removed = append(change.Removed, old)
			}
			return
		}
		t.put(route, pod)
		change.Upserted = append(change.Upserted, pod)
	}
	switch c := response.GetChange().(type) {
	case *routesv1.WatchResponse_Snapshot:
		keep := make(map[string]bool, len(c.Snapshot.GetRoutes()))
		for _, route := range c.Snapshot.GetRoutes() {
			keep[route.GetPodUid()] = true
		}
		for uid := range t.routes {
			if !keep[uid] {
				change.Removed = append(change.Removed, t.remove(uid))
			}
		}
		for _, route := range c.Snapshot.GetRoutes() {
			upsert(route)
		}
	case *routesv1.WatchResponse_Delta:
		for _, uid := range c.Delta.GetRemovedPodUids() {
			if old := t.remove(uid); old != nil {
				change.Removed = append(change.Removed, old)
			}
		}
		for _, route := range c.Delta.GetUpserted() {
			upsert(route)
		}
	}
	t.publish()
	t.generation, t.revision = response.GetGeneration(), response.GetRevision()
	return change, bad
}

// snapshot returns the whole table as the response that would make it.
func (t *Table) snapshot() *routesv1.WatchResponse {
	t.mu.Lock()
	defer t.mu.Unlock()
	routes := make([]*routesv1.Route, 0, len(t.routes))
	for _, route := range t.routes {
		routes = append(routes, route)
	}
	slices.SortFunc(routes, func(a, b *routesv1.Route) int { return cmp.Compare(a.GetPodUid(), b.GetPodUid()) })
	return &routesv1.WatchResponse{
		Generation: t.generation,
		Revision:   t.revision,
		Change:     &routesv1.WatchResponse_Snapshot{Snapshot: &routesv1.Snapshot{Routes: routes}},
	}
}

// podOf reads a route. Counters of instances that are already known go on.
func (t *Table) podOf(route *routesv1.Route) (*Pod, error) {
	if route.GetPodUid() == "" {
		return nil, fmt.Errorf("route of pod %s/%s has no pod UID", route.GetNamespace(), route.GetPodName())
	}
	addr, err := netip.ParseAddr(route.GetAddress())
	if err != nil {
		return nil, fmt.Errorf("route of pod %s/%s (%s): address: %w", route.GetNamespace(), route.GetPodName(), route.GetPodUid(), err)
	}
	var addr6 netip.Addr
	if route.GetAddress6() != "" {
		if addr6, err = netip.ParseAddr(route.GetAddress6()); err != nil {
			return nil, fmt.Errorf("route of pod %s/%s (%s): address: %w", route.GetNamespace(), route.GetPodName(), route.GetPodUid(), err)
		}
	}
	if route.GetPort() == 0 || route.GetPort() > 65535 {
		return nil, fmt.Errorf("route of pod %s/%s (%s): port %d is not between 1 and 65535", route.GetNamespace(), route.GetPodName(), route.GetPodUid(), route.GetPort())
	}
	pod := &Pod{
		UID:         route.GetPodUid(),
		Name:        route.GetPodName(),
		Function:    FunctionKey{Namespace: route.GetNamespace(), Name: route.GetFunction()},
		Revision:    route.GetRevision(),
		Address:     addr.Unmap(),
		Address6:    addr6,
		Port:        uint16(route.GetPort()),
		Exposed:     route.GetExposed(),
		Owner:       route.GetOwner(),
		Created:     route.GetCreatedUnix(),
		Ready:       route.GetReady(),
		HomeNode:    route.GetHomeNode(),
		HomeAddress: route.GetHomeAddress(),
	}
	old := t.Pod(pod.UID)
	if old != nil && old.HomeAddress == pod.HomeAddress {
		pod.home = old.home
	} else {
		pod.home = new(endpoint)
	}
	for _, instance := range route.GetInstances() {
		pod.Instances = append(pod.Instances, &Instance{
			Lease:    instance.GetLeaseId(),
			Address:  instance.GetAddress(),
			Nonce:    instance.GetNonce(),
			endpoint: old.endpoint(instance.GetLeaseId()),
		})
	}
	return pod, nil
}

// endpoint returns what is known of a lease of this pod, a new one if the pod
// (which may be nil) does not know it.
func (p *Pod) endpoint(lease string) *endpoint {
	if p != nil {
		for _, instance := range p.Instances {
			if instance.Lease == lease {
				return instance.endpoint
			}
		}
	}
	return new(endpoint)
}

func (t *Table) put(route *routesv1.Route, pod *Pod) {
	if old := t.Pod(pod.UID); old != nil {
		if old.Function != pod.Function {
			t.leaveFunction(old)
		}
		if old.Address != pod.Address || old.Address6 != pod.Address6 {
			t.leaveAddress(old)
		}
	}
	t.routes[pod.UID] = route
	t.pods.Store(pod.UID, pod)
	for addr := range pod.Addresses {
		t.addresses.Store(addr, pod)
	}
	members := t.byFunction[pod.Function]
	if members == nil {
		members = make(map[string]*Pod)
		t.byFunction[pod.Function] = members
	}
	members[pod.UID] = pod
	t.touched[pod.Function] = true
}

// remove forgets a pod and returns it, nil if it was not known.
func (t *Table) remove(uid string) *Pod {
	old := t.Pod(uid)
	if old == nil {
		return nil
	}
	delete(t.routes, uid)
	t.pods.Delete(uid)
	t.leaveAddress(old)
	t.leaveFunction(old)
	return old
}

// leaveAddress frees a pod's addresses unless another pod has them by now.
func (t *Table) leaveAddress(pod *Pod) {
	for addr := range pod.Addresses {
		if owner := t.Address(addr); owner != nil && owner.UID == pod.UID {
			t.addresses.Delete(addr)
		}
	}
}

func (t *Table) leaveFunction(pod *Pod) {
	members := t.byFunction[pod.Function]
	delete(members, pod.UID)
	if len(members) == 0 {
		delete(t.byFunction, pod.Function)
	}
	t.touched[pod.Function] = true
}

// publish makes the functions that were touched, as they are now, visible to
// look-ups.
func (t *Table) publish() {
	changes := make(map[FunctionKey]change[*Function], len(t.touched))
	var lines []*queue
	for key := range t.touched {
		function := t.function(key)
		changes[key] = change[*Function]{function, function == nil}
		if old := t.functions.get(key); old != nil {
			lines = append(lines, &old.state.queue)
		}
	}
	t.functions.update(changes)
	clear(t.touched)
	for _, line := range lines {
		line.roomMade()
	}
}

// function makes a function of its pods; nil if there are none.
func (t *Table) function(key FunctionKey) *Function {
	members := t.byFunction[key]
	if len(members) == 0 {
		return nil
	}
	f := &Function{Key: key, Pods: make([]*Pod, 0, len(members)), policy: defaultPolicy}
	for _, pod := range members {
		f.Pods = append(f.Pods, pod)
	}
	slices.SortFunc(f.Pods, func(a, b *Pod) int { return cmp.Compare(a.UID, b.UID) })
	var newest *Pod
	for _, pod := range f.Pods {
		if !pod.Exposed {
			continue
		}
		f.Exposed = true
		if !pod.Ready {
			continue
		}
		if len(pod.Instances) > 0 {
			f.active = append(f.active, pod)
		} else {
			f.parked = append(f.parked, pod)
		}
		if newest == nil || pod.Created > newest.Created {
			newest = pod
		}
		if !slices.Contains(f.Owners, pod.Owner) {
			f.Owners = append(f.Owners, pod.Owner)
		}
	}
	slices.Sort(f.Owners)
	if newest != nil {
		f.asked = t.routes[newest.UID].GetPolicy()
	}
	switch old := t.functions.get(key); {
	case old == nil:
		f.state, f.policy = new(functionState), newPolicy(f.asked)
	case newest == nil:
		f.state, f.policy, f.asked = old.state, old.policy, old.asked
	case proto.Equal(old.asked, f.asked):
		f.state, f.policy = old.state, old.policy
	default:
		f.state, f.policy = old.state, newPolicy(f.asked)
	}
	return f
}
