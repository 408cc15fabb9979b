package nodeagent

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"sanfran.dev/router"
)

// This file brings requests for a pod's address to a pod of another agent. While that
// agent cannot be reached, or says that it is not the pod's home, they wait, as they
// do at a gateway: until the agent is back, or the pod has another home, which may be
// this agent.

// serveElsewhere brings a request to the pod of a route, which is another agent's,
// or answers it.
func (a *Agent) serveElsewhere(d *delivery, addr netip.Addr, route *router.Pod) {
	if a.serveRemote(d, route) {
		return
	}
	if a.away.Add(1) > int64(a.cfg.QueueLength) {
		a.away.Add(-1)
		a.unavailable(d.w, d.r, errQueueFull)
		return
	}
	defer a.away.Add(-1)
	ctx, cancel := context.WithTimeout(d.r.Context(), a.cfg.AwayWait)
	defer cancel()
	var pace router.AwayPace
	for pace.Pause(ctx) {
		p, now := a.addresses.lookup(addr), a.routes.Address(addr)
		// One that is on its way from here has the address for a while.
		if p != nil && p.spec.PodUID == route.UID && a.servePod(d, p) {
			return
		}
		if now == nil || now.UID != route.UID {
			a.unavailable(d.w, d.r, errWithdrawn) // deleted
			return
		}
		if a.serveRemote(d, now) {
			return
		}
	}
	if d.r.Context().Err() != nil {
		a.unavailable(d.w, d.r, d.r.Context().Err())
		return
	}
	router.WriteProblem(d.w, d.r, router.Problem{
		Status: http.StatusServiceUnavailable, Code: "PodUnavailable", RetryAfter: time.Second,
		Message: fmt.Sprintf("the node of pod %s of %s could not be reached for %v, and the pod has no other yet; try again", route.Name, route.Function, a.cfg.AwayWait),
	})
}

// serveRemote makes one round of attempts: a container of the pod that is known to
// serve, then its home agent. It reports whether the request is answered; otherwise
// no function code has seen it.
func (a *Agent) serveRemote(d *delivery, route *router.Pod) bool {
	var to []router.Upstream
	// One container is enough to ask; its home agent knows the others.
	if len(route.Instances) > 0 {
		instance := route.Instances[0]
		to = append(to, router.Upstream{Address: instance.Address, Lease: instance.Lease, Nonce: instance.Nonce, Home: route})
	}
	if route.HomeAddress != a.cfg.dataAddress() {
		to = append(to, router.Upstream{Address: route.HomeAddress, Pod: route.UID, Revision: route.Revision, Nonce: router.AgentNonce})
	}
	for _, upstream := range to {
		switch d.exchange.Try(upstream) {
		case router.Answered:
			return true
		case router.Spent:
			d.spent()
			return true
		}
	}
	return false
}
