package router

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"
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
	// AwayWait is how long a request waits for the home agent of a Ready pod that
	// cannot be reached. Default 10 s: longer than an agent takes to be
	// replaced on its node, or its pods to get another home.
	AwayWait time.Duration
	Metrics  *Metrics
	Log      *slog.Logger
}

// Gateway serves /fn/<name>[/path] and /ns/<namespace>/fn/<name>[/path]. It
// implements http.Handler and is safe for concurrent use.
type Gateway struct {
	cfg GatewayConfig
	// away counts requests that wait for home agents that cannot be reached.
	away atomic.Int64
}

// NewGateway returns a Gateway.
func NewGateway(cfg GatewayConfig) *Gateway {
	if cfg.DefaultNamespace == "" {
		cfg.DefaultNamespace = "default"
	}
	if cfg.AwayWait == 0 {
		cfg.AwayWait = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Gateway{cfg: cfg}
}

// ServeHTTP implements http.Handler.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	EnsureRequestID(r)
	recorder := &statusRecorder{ResponseWriter: w}
	cold := g.serve(recorder, r)
	g.cfg.Metrics.observe(recorder.status, cold, time.Since(start))
}

// serve answers one request and reports whether it went to a parked pod.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) (cold bool) {
	to, ok := parsePath(r.URL.EscapedPath(), g.cfg.DefaultNamespace)
	if !ok {
		WriteProblem(w, r, Problem{
			Status:  http.StatusNotFound,
			Code:    "NoSuchPath",
			Message: fmt.Sprintf("%q is not a function's path; functions are at /fn/<name> and /ns/<namespace>/fn/<name>", r.URL.EscapedPath()),
		})
		return false
	}
	function := g.exposed(to.function)
	if function == nil {
		WriteProblem(w, r, Problem{
			Status:  http.StatusNotFound,
			Code:    "NoSuchFunction",
			Message: fmt.Sprintf("there is no function %q in namespace %q; see kubectl get pods -n %s -o wide for those on the sanfran node", to.function.Name, to.function.Namespace, to.function.Namespace),
		})
		return false
	}
	x := g.cfg.Forwarder.Begin(w, r, ExchangeOptions{Path: to.path, Prefix: to.prefix, Edge: true})
	t := &tries{function: function, refusedBy: make(map[string]bool, 0)}
	var awaySince time.Time
	for pause := awayPauseFirst; ; pause = min(2*pause, awayPauseLast) {
		if g.try(x, to.function, t) {
			return t.cold
		}
		if awaySince.IsZero() && t.away {
			awaySince = time.Now()
		}
		if awaySince.IsZero() || time.Since(awaySince) >= g.cfg.AwayWait || !g.pause(r.Context(), pause) {
			break
		}
		if t.function = g.exposed(to.function); t.function == nil {
			break // deleted meanwhile
		}
	}
	WriteProblem(w, r, Problem{
		Status:     http.StatusServiceUnavailable,
		Code:       "NoInstance",
		Message:    fmt.Sprintf("no pod of function %s takes requests now; see kubectl describe pod -n %s for the reason", to.function, to.function.Namespace),
		RetryAfter: time.Second,
	})
	return t.cold
}

const (
	// awayPauseFirst and awayPauseLast are between tries to reach a home agent that
	// is away, as during its update on the only node.
	awayPauseFirst, awayPauseLast = 50 * time.Millisecond, 500 * time.Millisecond
	// maxAway is how many requests wait for home agents at once: each is a
	// connection and some ten KiB of memory.
	maxAway = 2000
)

// pause waits before the next try. It reports false if the client is gone, or if
// too many requests wait.
func (g *Gateway) pause(ctx context.Context, d time.Duration) bool {
	defer g.away.Add(-1)
	if g.away.Add(1) > maxAway {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tries is what is known of one request's attempts.
type tries struct {
	// function is the newest that is known.
	function *Function
	// refusedBy are leases: an instance that refuses is passed over for its pod's
	// home agent.
	refusedBy map[string]bool
	// cold: a home agent was asked; away: one could not be reached.
	cold, away bool
}

// homed is a pod at one of its homes.
type homed struct{ podUID, address string }

// try makes up to maxAttempts attempts. It reports whether the request is
// answered; otherwise no function code has seen it.
func (g *Gateway) try(x *Exchange, key FunctionKey, t *tries) bool {
	// A home agent that fails is passed over for another pod. A pod that has moved
	// meanwhile has another.
	gone := make(map[homed]bool, 0)
	for range maxAttempts {
		next, ok := t.function.choose(func(p *Pod) bool { return !p.Exposed || gone[homed{p.UID, p.HomeAddress}] })
		if !ok {
			return false
		}
		viaHome := next.instance == nil || t.refusedBy[next.instance.Lease]
		t.cold = t.cold || viaHome
		switch outcome := g.attempt(x, next, viaHome); outcome {
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
			g.cfg.Metrics.retried(outcome)
			if viaHome {
				gone[homed{next.pod.UID, next.pod.HomeAddress}] = true
				t.away = t.away || outcome == NotDelivered
			} else {
				t.refusedBy[next.instance.Lease] = true
			}
			if current := g.exposed(key); current != nil {
				t.function = current
			}
		}
	}
	return false
}

// exposed returns the function if the gateway may serve any pod of it.
func (g *Gateway) exposed(key FunctionKey) *Function {
	function := g.cfg.Table.Function(key)
	if function == nil {
		return nil
	}
	for _, pod := range function.Pods {
		if pod.Exposed {
			return function
		}
	}
	return nil
}

func (g *Gateway) attempt(x *Exchange, to choice, viaHome bool) Outcome {
	if viaHome {
		return x.Try(Upstream{Address: to.pod.HomeAddress, Pod: to.pod.UID, Revision: to.pod.Revision, Nonce: AgentNonce})
	}
	to.instance.outstanding.Add(1)
	defer to.instance.outstanding.Add(-1)
	return x.Try(Upstream{Address: to.instance.Address, Lease: to.instance.Lease, Nonce: to.instance.Nonce, Home: to.pod})
}

// statusRecorder remembers the status of an answer.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (s *statusRecorder) WriteHeader(status int) {
	if s.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (s *statusRecorder) Write(p []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	return s.ResponseWriter.Write(p)
}

// Hijack implements http.Hijacker; the connection has been upgraded then.
func (s *statusRecorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err == nil && s.status == 0 {
		s.status = http.StatusSwitchingProtocols
	}
	return conn, buffered, err
}

// Unwrap lets http.ResponseController reach flushing.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }
