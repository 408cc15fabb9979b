package router

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// maxAttempts is how often one request is sent at the most. Each further
// attempt is made only while it is certain that no function code saw the
// request: an instance that goes, then its home agent, then another pod.
const maxAttempts = 4

// GatewayConfig makes a Gateway.
type GatewayConfig struct {
	Table     *Table
	Forwarder *Forwarder
	// DefaultNamespace is the namespace of /fn/<name>. Default "default".
	DefaultNamespace string
	// HostSuffix is the end of functions' host names, <name>.<namespace>.<suffix>; see
	// [CheckHostSuffix]. Empty: functions have none.
	HostSuffix string
	// Node is the Kubernetes node this process runs on, whose containers are
	// preferred; empty: none are.
	Node string
	// QueueMemory bounds what all requests that wait take together, in bytes. Default
	// 128 MiB, some 5,000 requests without bodies.
	QueueMemory int64
	// AwayWait is how long a request waits for the home agent of a Ready pod that
	// cannot be reached. Default 10 s: longer than an agent takes to be
	// replaced on its node, or its pods to get another home.
	AwayWait time.Duration
	// TrustedProxies are those in front of the gateway whose X-Forwarded-* and
	// Forwarded are believed.
	TrustedProxies []netip.Prefix
	Metrics        *Metrics
	// AccessLog gets a line of each request; nil: there is none.
	AccessLog *AccessLog
	// Tracer makes a span of each request; nil: none are made.
	Tracer trace.Tracer
	Log    *slog.Logger
}

// Gateway serves /fn/<name>[/path], /ns/<namespace>/fn/<name>[/path] and functions'
// host names. It implements http.Handler and is safe for concurrent use.
type Gateway struct {
	cfg GatewayConfig
	// away counts requests that wait for home agents that cannot be reached, held the
	// memory of all that wait.
	away atomic.Int64
	held atomic.Int64
}

// NewGateway returns a Gateway.
func NewGateway(cfg GatewayConfig) *Gateway {
	if cfg.DefaultNamespace == "" {
		cfg.DefaultNamespace = "default"
	}
	if cfg.AwayWait == 0 {
		cfg.AwayWait = 10 * time.Second
	}
	if cfg.QueueMemory == 0 {
		cfg.QueueMemory = 128 << 20
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	g := &Gateway{cfg: cfg}
	cfg.Metrics.serves(g)
	return g
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	EnsureRequestID(r)
	span := g.startSpan(r)
	rec := &record{ResponseWriter: w}
	cold := false
	// Also of an answer that is broken off by a panic.
	defer func() {
		g.cfg.Metrics.observe(rec, cold, time.Since(start))
		g.cfg.AccessLog.add(start, r, rec, cold)
		endSpan(span, rec, "/fn/", cold)
	}()
	cold = g.serve(rec, r)
}

// serve answers one request and reports whether it went to a parked pod.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) (cold bool) {
	to, function, refused := g.admit(r)
	if rec := recordOf(w); rec != nil && function != nil {
		rec.asks(function.Key, g.cfg.Metrics)
	}
	if refused != nil {
		WriteProblem(w, r, *refused)
		return false
	}
	opts := ExchangeOptions{Path: to.path, Prefix: to.prefix, Edge: true, Policy: function.policy}
	opts.Trusted = g.trusts(r)
	if to.sticky != "" {
		opts.Cookie = stickyCookie(r, &to, opts.Trusted)
	}
	x := g.cfg.Forwarder.Begin(w, r, opts)
	defer x.End()
	t := &tries{function: function}
	var awaySince time.Time
	var pace AwayPace
	for {
		if g.try(x, t) {
			return t.cold
		}
		if awaySince.IsZero() && t.away {
			awaySince = time.Now()
		}
		if awaySince.IsZero() || time.Since(awaySince) >= g.cfg.AwayWait {
			break
		}
		if !g.wait(x, t.function) {
			WriteProblem(w, r, queueFull(t.function))
			return t.cold
		}
		if !g.pause(x, &pace) {
			break
		}
		if t.function = g.exposed(function.Key); t.function == nil {
			break // deleted meanwhile
		}
	}
	if problem := expired(x.ctx); problem != nil {
		WriteProblem(w, r, *problem)
		return t.cold
	}
	WriteProblem(w, r, Problem{
		Status:     http.StatusServiceUnavailable,
		Code:       "NoInstance",
		Message:    fmt.Sprintf("no pod of function %s takes requests now; see kubectl describe pod -n %s for the reason", function.Key, function.Key.Namespace),
		RetryAfter: time.Second,
	})
	return t.cold
}

// pause waits before the next try. It reports false if the request's time is over.
func (g *Gateway) pause(x *Exchange, pace *AwayPace) bool {
	defer g.away.Add(-1)
	g.away.Add(1)
	return pace.Pause(x.ctx)
}

// wait counts a request that has to wait. It reports false if too many do.
func (g *Gateway) wait(x *Exchange, f *Function) bool {
	bytes := waitBytes + memoryOf(x.r.Header)
	if x.body != nil {
		bytes += replayLimit
		if n := x.r.ContentLength; n >= 0 && n < replayLimit {
			bytes += n - replayLimit
		}
	}
	var told *functionMetrics
	if rec := recordOf(x.w); rec != nil {
		told = rec.metrics
	}
	return x.place.take(&f.state.queue, f.policy.queueLength, &g.held, g.cfg.QueueMemory, bytes, told)
}

// try makes up to maxAttempts attempts. It reports whether the request is
// answered; otherwise no function code has seen it.
func (g *Gateway) try(x *Exchange, t *tries) bool {
	// A home agent that fails is passed over for another pod, until the next try.
	t.gone = t.gone[:0]
	for range maxAttempts {
		next, answered := g.acquire(x, t)
		if answered || next.pod == nil {
			return answered
		}
		viaHome := next.instance == nil
		t.cold = t.cold || viaHome
		switch {
		case !viaHome:
			x.place.leave() // it has waited, if it had to
		case !g.wait(x, t.function):
			t.function.release(next)
			WriteProblem(x.w, x.r, queueFull(t.function))
			return true
		}
		switch outcome := g.attempt(x, t.function, next); outcome {
		case Answered:
			return true
		case Spent:
			WriteProblem(x.w, x.r, Problem{
				Status:     http.StatusServiceUnavailable,
				Code:       "BodyNotRepeatable",
				Message:    fmt.Sprintf("the function's container went away while the request's body was being sent, and more than %d KiB of it were gone already; no function code saw the request, send it again", replayLimit>>10),
				RetryAfter: time.Second,
			})
			return true
		default:
			if viaHome {
				t.gone = append(t.gone, homed{next.pod.UID, next.pod.HomeAddress})
				t.away = t.away || outcome == NotDelivered
			} else {
				t.refusedBy = append(t.refusedBy, next.instance.Lease)
			}
			if current := g.exposed(t.function.Key); current != nil {
				t.function = current
			}
		}
	}
	return false
}

// acquire finds an upstream that has room, and waits for one if none has. The
// choice has no pod if there is none to wait for. It reports whether the request has
// been answered instead.
func (g *Gateway) acquire(x *Exchange, t *tries) (next choice, answered bool) {
	queue := &t.function.state.queue
	v := busy
	// Who comes now goes behind those in line.
	if queue.inLine.Load() == 0 {
		if next, v = t.function.acquire(t, g.cfg.Node); v != busy {
			return next, false
		}
	}
	if !g.wait(x, t.function) {
		WriteProblem(x.w, x.r, queueFull(t.function))
		return choice{}, true
	}
	within := t.function.policy.queueTime
	ok := queue.awaitTurn(x.ctx, within, func() bool {
		current := g.exposed(t.function.Key)
		if current == nil {
			return true // deleted meanwhile; there is no choice
		}
		t.function = current
		next, v = current.acquire(t, g.cfg.Node)
		return v != busy
	})
	if ok {
		return next, false
	}
	switch problem := expired(x.ctx); {
	case problem != nil:
		WriteProblem(x.w, x.r, *problem)
	case x.ctx.Err() != nil:
		x.w.WriteHeader(499) // the client is gone; seen in logs and metrics only
	default:
		WriteProblem(x.w, x.r, Problem{
			Status: http.StatusServiceUnavailable, Code: "QueueTimeout", RetryAfter: queueRetry,
			Message: fmt.Sprintf("every container of function %s was busy for %v; no function code saw the request. Its annotation sanfran.dev/concurrency says how many requests each gateway gives a container; more replicas take more", t.function.Key, within),
		})
	}
	return choice{}, true
}

// queueRetry is when a client should come again who was turned away by a queue.
const queueRetry = 5 * time.Second

func queueFull(f *Function) Problem {
	return Problem{
		Status: http.StatusServiceUnavailable, Code: "QueueFull", RetryAfter: queueRetry,
		Message: fmt.Sprintf("too many requests wait for function %s already; no function code saw this one. The function's annotation sanfran.dev/queue-length says how many may at each gateway, %d; all that wait at one have a budget of memory, too", f.Key, f.policy.queueLength),
	}
}

// exposed returns the function if the gateway may serve any pod of it.
func (g *Gateway) exposed(key FunctionKey) *Function {
	if f := g.cfg.Table.Function(key); f != nil && f.Exposed {
		return f
	}
	return nil
}

// attempt sends the request to where it is counted already, and ends the count.
func (g *Gateway) attempt(x *Exchange, f *Function, to choice) (outcome Outcome) {
	defer f.release(to)
	e := to.endpoint()
	if to.instance != nil {
		outcome = x.Try(Upstream{Address: to.instance.Address, Lease: to.instance.Lease, Nonce: to.instance.Nonce, Home: to.pod})
	} else {
		upstream := Upstream{Address: to.pod.HomeAddress, Pod: to.pod.UID, Revision: to.pod.Revision, Nonce: AgentNonce}
		if f.policy.tellAgent {
			upstream.Wait = f.policy.queueTime
		}
		outcome = x.Try(upstream)
	}
	switch {
	case outcome == NotDelivered || x.broke:
		e.failed(nanos())
	case x.works:
		e.answered()
	}
	return outcome
}
