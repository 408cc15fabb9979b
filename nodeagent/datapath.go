package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"sanfran.dev/router"
)

// serveData answers the data listener: requests of gateways and of other
// agents, for pods this agent is home to. Such a request names pod and
// revision; for any other it is refused in a way that says that no function
// code saw it.
func (a *Agent) serveData(w http.ResponseWriter, r *http.Request) {
	if uid, lease, ok := router.AskedFate(r); ok {
		var problem *router.Problem
		if p := a.pods.get(uid); p != nil {
			problem = p.explain(r.Context(), lease)
		}
		router.WriteFate(w, problem)
		return
	}
	uid, revision := r.Header.Get(router.HeaderPod), r.Header.Get(router.HeaderRevision)
	p := a.pods.get(uid)
	if p == nil || p.spec.Revision != revision {
		refuse(w)
		return
	}
	// Who names the pod is a gateway, which names no client, or another agent.
	d := a.begin(w, r, r.Header.Get(router.HeaderClient))
	defer d.exchange.End()
	if !a.servePod(d, p) {
		refuse(w)
	}
}

// refuse tells a router that this agent is not home to the pod.
func refuse(w http.ResponseWriter) {
	w.Header().Set(router.HeaderRefused, router.AgentNonce)
	w.WriteHeader(http.StatusMisdirectedRequest)
}

// addressHandler is serveAddress with the spans that are asked for. What one agent
// forwards to another, or a gateway to an agent, has its span already.
func (a *Agent) addressHandler() http.HandlerFunc { return router.Traced(a.cfg.Tracer, a.serveAddress) }

// serveAddress answers the pod listener: whoever connects to a function pod's
// address while no container here answers there by itself. Which pod is meant
// says the address the connection was made to, which the client cannot forge. The
// function sees the client as it would on a connection of its own.
func (a *Agent) serveAddress(w http.ResponseWriter, r *http.Request) {
	router.EnsureRequestID(r)
	addr := localAddress(r)
	if p := a.addresses.lookup(addr); p != nil {
		if a.cfg.Tracer != nil {
			router.Serves(w, router.FunctionKey{Namespace: p.spec.Namespace, Name: p.spec.Function}, p.parked())
		}
		// The pod is active here in a moment, if it loads: the client's next
		// connection then reaches the container directly. An upgraded
		// connection is not to be closed.
		if r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		d := a.begin(w, r, r.RemoteAddr)
		defer d.exchange.End()
		if a.servePod(d, p) {
			return
		}
		// It may have been handed over to another agent while the request waited.
		if route := a.routes.Address(addr); route != nil && route.UID == p.spec.PodUID && route.HomeAddress != a.cfg.dataAddress() {
			a.serveElsewhere(d, addr, route)
			return
		}
		a.unavailable(w, r, errWithdrawn)
		return
	}
	if route := a.routes.Address(addr); route != nil {
		router.Serves(w, route.Function, len(route.Instances) == 0)
		if !route.Ready && r.Header.Get("Upgrade") == "" {
			// Its pod is about to go: the client's next connection reaches another.
			w.Header().Set("Connection", "close")
		}
		d := a.begin(w, r, r.RemoteAddr)
		defer d.exchange.End()
		a.serveElsewhere(d, addr, route)
		return
	}
	w.Header().Set("Connection", "close")
	router.WriteProblem(w, r, router.Problem{
		Status: http.StatusServiceUnavailable, Code: "PodUnknown", RetryAfter: time.Second,
		Message: fmt.Sprintf("no function pod with the address %v is known on this node (yet); try again", addr),
	})
}

// localAddress is the address the client connected to.
func localAddress(r *http.Request) netip.Addr {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local == nil {
		return netip.Addr{}
	}
	return localAddrPort(local).Addr()
}

// localAddrPort is a connection's own address; IPv4 is IPv4, also on a socket of
// both families.
func localAddrPort(local net.Addr) netip.AddrPort {
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// deliveries is how many containers one request is offered to. The first may
// have been parked or have died in the moment between lease and delivery.
const deliveries = 3

// delivery is a request on its way to a pod, whoever has it in the end. It is used by
// the request's goroutine alone.
type delivery struct {
	w        http.ResponseWriter
	r        *http.Request
	exchange *router.Exchange
	inst     *instance // that is to answer; nil: none of this agent's
}

// begin prepares a request for its attempts; the caller ends the exchange. client is
// who connected to the pod's address, "" if the request came by a gateway.
func (a *Agent) begin(w http.ResponseWriter, r *http.Request, client string) *delivery {
	d := &delivery{w: w, r: r}
	d.exchange = a.forwarder.Begin(w, r, router.ExchangeOptions{Client: client, Explain: func(ctx context.Context) *router.Problem {
		if d.inst == nil {
			return nil
		}
		return d.inst.explain(ctx)
	}})
	return d
}

// servePod brings a request to a pod of this agent, and answers it if there is no
// way. It reports false, and has answered nothing, if the pod is not here any more.
func (a *Agent) servePod(d *delivery, p *pod) bool {
	a.metrics.requests.Inc()
	w, r := d.w, d.r
	waiting := r.Context()
	if wait := router.AskedWait(r); wait > 0 {
		// Less than this agent's own limit, which holds in any case.
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeoutCause(waiting, wait, errQueueTimeout)
		defer cancel()
	}
	defer func() { d.inst = nil }()
	for range deliveries {
		inst, err := p.lease(waiting)
		if errors.Is(err, errWithdrawn) {
			return false
		}
		if err != nil {
			a.unavailable(w, r, err)
			return true
		}
		d.inst = inst
		switch outcome := deliver(d.exchange, inst); outcome {
		case router.Answered:
			return true
		case router.NotDelivered:
			if inst.alive() {
				// It runs but takes no connection: its queue is full.
				router.WriteProblem(w, r, router.Problem{
					Status: http.StatusServiceUnavailable, Code: "FunctionBusy", RetryAfter: time.Second,
					Message: "the function's container takes no more connections; it needs more replicas or more cpu",
				})
				return true
			}
			p.lost(r.Context(), inst)
		case router.Refused:
			// It drains, or is not what it was: no use to anybody any more.
			p.lost(r.Context(), inst)
		case router.Spent:
			d.spent()
			return true
		}
	}
	a.unavailable(w, r, errors.New("the containers of the pod went away before they took the request"))
	return true
}

// spent answers a request whose body cannot be sent again.
func (d *delivery) spent() {
	router.WriteProblem(d.w, d.r, router.Problem{
		Status: http.StatusServiceUnavailable, Code: "RequestTooLargeToResend", RetryAfter: time.Second,
		Message: "the function's container was replaced while the request's body was under way; the function did not see it: send it again",
	})
}

// deliver is one attempt; the instance's use ends with it, also when the
// forwarder panics to break off an answer.
func deliver(exchange *router.Exchange, inst *instance) router.Outcome {
	defer func() { inst.usage.end(time.Now()) }()
	return exchange.Try(inst.upstream())
}

// lost sees to it that an instance that gave a request back is out of service.
func (p *pod) lost(ctx context.Context, i *instance) {
	p.mu.Lock()
	serves := p.current == i
	p.mu.Unlock()
	if !serves {
		return
	}
	if !i.alive() {
		// Its supervisor sees that, too, and takes it out when it knows why.
		select {
		case <-i.fate.known:
		case <-i.ended:
		case <-ctx.Done():
		}
		return
	}
	f := (&failure{reason: ReasonExited, message: "the container refused its own requests"}).ended(killed, i.leasedAt, time.Now())
	i.fate.decide(f)
	p.mu.Lock()
	out := p.detach(i)
	if out {
		p.life.exited(f, time.Since(i.leasedAt), time.Now())
		p.scheduleRetry(time.Now())
		p.replace()
	}
	p.mu.Unlock()
	if out {
		i.retire(p.agent.cfg.DrainGrace)
	}
}

// unavailable answers a request that no container could be found for.
func (a *Agent) unavailable(w http.ResponseWriter, r *http.Request, err error) {
	a.metrics.refused.WithLabelValues(refusal(err)).Inc()
	if f := asFailure(err); f != nil {
		router.WriteProblem(w, r, f.problem())
		return
	}
	if r.Context().Err() != nil {
		w.WriteHeader(499) // the client is gone; seen in metrics only
		return
	}
	problem := router.Problem{Status: http.StatusServiceUnavailable, Code: refusal(err), Message: err.Error(), RetryAfter: time.Second}
	if problem.Code == "QueueFull" || problem.Code == "QueueTimeout" || problem.Code == "NodeFull" {
		problem.RetryAfter = 5 * time.Second
	}
	router.WriteProblem(w, r, problem)
}

// refusal names an error of pod.lease.
func refusal(err error) string {
	switch {
	case asFailure(err) != nil:
		return asFailure(err).reason
	case errors.Is(err, errQueueFull):
		return "QueueFull"
	case errors.Is(err, errNoRoom):
		return "NodeFull"
	case errors.Is(err, errQueueTimeout), errors.Is(err, context.DeadlineExceeded):
		return "QueueTimeout"
	case errors.Is(err, errWithdrawn):
		return "PodWithdrawn"
	case errors.Is(err, context.Canceled):
		return "ClientGone"
	default:
		return "NoContainer"
	}
}

// takeOverTime is many times what it takes to accept a full queue.
const takeOverTime = 500 * time.Millisecond

// takeOver answers the connections that an ended container left in its
// socket's queue, of which this agent has a duplicate. On the pod's own address
// they are requests like any other; on the container's port they are meant for
// a lease that is no more, and refused in its name.
func (a *Agent) takeOver(i *instance) {
	listener, err := net.FileListener(i.warm.socket.File())
	if err != nil {
		a.log.Error("the queue of an ended container is not taken over", "err", err)
		return
	}
	defer listener.Close()
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return
	}
	port := i.warm.socket.Addr()
	// What is queued is there at once. Who goes on connecting to the port must
	// not keep this from its end.
	for end := time.Now().Add(takeOverTime); time.Now().Before(end); {
		if err := tcp.SetDeadline(time.Now().Add(time.Millisecond)); err != nil {
			return
		}
		conn, err := tcp.AcceptTCP()
		if err != nil {
			return
		}
		handler := a.addressHandler()
		if localAddrPort(conn.LocalAddr()) == port {
			handler = func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Connection", "close")
				w.Header().Set(router.HeaderRefused, i.nonce)
				w.WriteHeader(http.StatusMisdirectedRequest)
			}
		}
		a.orphans.add(conn, handler)
	}
}
