package router

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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
	Metrics          *Metrics
	Log              *slog.Logger
}

// Gateway serves /fn/<name>[/path] and /ns/<namespace>/fn/<name>[/path]. It
// implements http.Handler and is safe for concurrent use.
type Gateway struct {
	cfg GatewayConfig
}

// NewGateway returns a Gateway.
func NewGateway(cfg GatewayConfig) *Gateway {
	if cfg.DefaultNamespace == "" {
		cfg.DefaultNamespace = "default"
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
	// An instance that refuses is passed over for its pod's home agent; a home
	// agent that fails, for another pod.
	refusedBy := make(map[string]bool, 0) // leases
	gone := make(map[string]bool, 0)      // pods
	for range maxAttempts {
		next, ok := function.choose(func(p *Pod) bool { return !p.Exposed || gone[p.UID] })
		if !ok {
			break
		}
		viaHome := next.instance == nil || refusedBy[next.instance.Lease]
		cold = cold || viaHome
		switch outcome := g.try(x, next, viaHome); outcome {
		case Answered:
			return cold
		case Spent:
			WriteProblem(w, r, Problem{
				Status:     http.StatusServiceUnavailable,
				Code:       "BodyNotRepeatable",
				Message:    fmt.Sprintf("the function's container went away while the request's body was being sent, and more than %d KiB of it were gone already; no function code saw the request, send it again", replayLimit>>10),
				RetryAfter: time.Second,
			})
			return cold
		default:
			g.cfg.Metrics.retried(outcome)
			if viaHome {
				gone[next.pod.UID] = true
			} else {
				refusedBy[next.instance.Lease] = true
			}
			if current := g.exposed(to.function); current != nil {
				function = current
			}
		}
	}
	WriteProblem(w, r, Problem{
		Status:     http.StatusServiceUnavailable,
		Code:       "NoInstance",
		Message:    fmt.Sprintf("no pod of function %s takes requests now; see kubectl describe pod -n %s for the reason", to.function, to.function.Namespace),
		RetryAfter: time.Second,
	})
	return cold
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

func (g *Gateway) try(x *Exchange, to choice, viaHome bool) Outcome {
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
