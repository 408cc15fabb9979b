package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Upstream is where one attempt goes: to a container (Lease and Nonce are set)
// or to the home agent of a pod (Pod and Revision are set, Nonce is
// [AgentNonce]).
type Upstream struct {
	// Address is host:port.
	Address  string
	Lease    string
	Nonce    string
	Pod      string
	Revision string
	// Wait is how long a home agent shall let the request wait for a container;
	// zero: as long as it does by itself.
	Wait time.Duration
	// Home is the pod whose home agent is asked why the container of Lease ended
	// if it breaks off the request. Nil: nobody is asked.
	Home *Pod
}

// Outcome is how an attempt ended.
type Outcome int

const (
	// Answered says that a response was written to the client, be it the function's or
	// a [Problem]; there is nothing left to do.
	Answered Outcome = iota
	// NotDelivered says that no byte of the request was written to the upstream. Nothing
	// was written to the client.
	NotDelivered
	// Refused says that the upstream said, with its own nonce, that no function code saw
	// the request. Nothing was written to the client.
	Refused
	// Spent says that the attempt before was refused, but more of the body had been sent
	// by then than is kept, so that it cannot be sent again. Nothing was written
	// to the client.
	Spent
)

// String names the outcome for logs and metrics.
func (o Outcome) String() string {
	return [...]string{"answered", "not_delivered", "refused", "spent"}[o]
}

// ForwarderConfig is what a Forwarder can be told. The zero value is usable.
type ForwarderConfig struct {
	// DialTimeout bounds connecting to an upstream. Default 2 s: the upstream
	// is in the same cluster, and a dead one must not hold a request for long.
	DialTimeout time.Duration
	// Log receives what went wrong with upstreams. Default slog.Default().
	Log *slog.Logger
}

// Forwarder forwards requests over one pool of connections. It is safe for
// concurrent use. Close its idle connections with [Forwarder.Close].
type Forwarder struct {
	transport *http.Transport
	proxy     *httputil.ReverseProxy
	dialer    net.Dialer
	patience  time.Duration // with an upstream that is dialled
	ahead     ahead
	log       *slog.Logger
}

// NewForwarder returns a Forwarder.
func NewForwarder(cfg ForwarderConfig) *Forwarder {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	f := &Forwarder{
		log: cfg.Log, patience: cfg.DialTimeout,
		dialer: net.Dialer{KeepAlive: 15 * time.Second},
		transport: &http.Transport{
			MaxIdleConns:        0, // no limit in all; per host is what counts
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
			// A hostile function's headers are buffered here, in the gateway.
			MaxResponseHeaderBytes: 1 << 20,
		},
	}
	f.transport.DialContext = f.dial
	f.proxy = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      roundTripper{f.transport},
		ModifyResponse: modifyResponse,
		ErrorHandler:   f.handleError,
		BufferPool:     bufferPool{},
		ErrorLog:       slog.NewLogLogger(cfg.Log.Handler(), slog.LevelDebug),
	}
	return f
}

// Close closes the connections that no request uses.
func (f *Forwarder) Close() { f.transport.CloseIdleConnections() }

// Exchange is one client request and its attempts. It is used by one
// goroutine, the request's.
type Exchange struct {
	forwarder *Forwarder
	w         http.ResponseWriter
	r         *http.Request
	opts      ExchangeOptions
	body      *replayBody // nil for a request without a body

	// Of the current attempt:
	upstream Upstream
	trailer  http.Header
	outcome  Outcome
	// wroteHeaders is set by the Transport's own goroutine.
	wroteHeaders atomic.Bool
	// broke: the upstream broke off before it answered; works: it answered.
	broke, works bool

	clock clock // runs if the policy has limits of time
	// place is given back when the answer begins.
	place place
}

// ExchangeOptions say how the function sees the request.
type ExchangeOptions struct {
	// Path is the escaped path the function gets; empty: the request's own.
	Path string
	// Prefix is what was taken off the path, for X-Forwarded-Prefix.
	Prefix string
	// Edge is set where a client's request enters SanFran: X-Forwarded-* are
	// made anew, not believed. Further in they are passed on.
	Edge bool
	// Policy has the limits of time and size; nil: none but the Forwarder's own. Who
	// sets it calls [Exchange.End].
	Policy *Policy
	// Cookie, if not empty, is added to the function's answer as Set-Cookie.
	Cookie string
	// Explain, if not nil, is asked why the upstream broke the connection before
	// it answered; nil is no reason. It may wait until the reason is known.
	Explain func(ctx context.Context) *Problem
}

// Begin prepares a request for its attempts.
func (f *Forwarder) Begin(w http.ResponseWriter, r *http.Request, opts ExchangeOptions) *Exchange {
	x := &Exchange{forwarder: f, w: w, opts: opts}
	if r.Header.Get("Upgrade") != "" {
		upgrade := upgradeWriter{ResponseWriter: w}
		if opts.Policy != nil && opts.Policy.StreamIdle > 0 {
			upgrade.clock = &x.clock
		}
		x.w = upgrade
	}
	ctx := context.WithValue(r.Context(), exchangeKey{}, x)
	policy := opts.Policy
	if policy != nil && policy.timed() {
		ctx = x.clock.start(ctx, policy)
	}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		body := r.Body
		if policy != nil && policy.StreamIdle > 0 {
			body = touchedBody{body, &x.clock}
		}
		if policy != nil && policy.maxBody > 0 && r.ContentLength < 0 {
			x.body = newReplayBody(&limitedBody{body, policy.maxBody}, r.Trailer)
		} else {
			x.body = newReplayBody(body, r.Trailer)
		}
	}
	x.r = r.WithContext(ctx)
	// The server writes there when the body ends, whoever reads it by then.
	x.r.Trailer = nil
	return x
}

// End says that there will be no further attempt.
func (x *Exchange) End() {
	x.place.leave()
	if x.clock.runs() {
		x.clock.stop()
	}
}

// Try sends the request to an upstream. Unless the outcome is [Answered] the
// caller may try another upstream, or answer the client itself.
//
// Like httputil.ReverseProxy it panics with http.ErrAbortHandler when the
// upstream breaks off in the middle of its answer.
func (x *Exchange) Try(upstream Upstream) Outcome {
	x.upstream = upstream
	x.outcome, x.broke, x.works = Answered, false, false
	x.wroteHeaders.Store(false)
	r := x.r
	if x.body != nil {
		body, ok := x.body.attempt()
		if !ok {
			return Spent
		}
		r = r.Clone(r.Context())
		r.Body, x.trailer = body, body.trailer
	}
	x.forwarder.proxy.ServeHTTP(x.w, r)
	return x.outcome
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *Exchange { return ctx.Value(exchangeKey{}).(*Exchange) }

// rewrite makes the upstream's request of the client's.
func rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	out := pr.Out
	out.URL.Scheme = "http"
	out.URL.Host = x.upstream.Address
	out.Host = pr.In.Host
	// ReverseProxy drops query parameters it cannot parse; they are the
	// function's to judge.
	out.URL.RawQuery = pr.In.URL.RawQuery
	if x.opts.Path != "" {
		setPath(out.URL, x.opts.Path)
	}
	StripHeaders(out.Header)
	out.Trailer = x.trailer // which body fills; a copy would stay empty
	if x.opts.Edge {
		stripFamily(out.Header, "X-Forwarded-")
		pr.SetXForwarded()
		if x.opts.Prefix != "" {
			out.Header.Set("X-Forwarded-Prefix", x.opts.Prefix)
		}
	} else {
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			if values, ok := pr.In.Header[name]; ok {
				out.Header[name] = values
			}
		}
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header.Set("User-Agent", "") // or the Transport would add its own
	}
	if x.upstream.Lease != "" {
		out.Header.Set(HeaderLease, x.upstream.Lease)
	}
	if x.upstream.Wait > 0 {
		out.Header.Set(HeaderWait, strconv.FormatInt(max(x.upstream.Wait.Milliseconds(), 1), 10))
	}
	if x.upstream.Pod != "" {
		out.Header.Set(HeaderPod, x.upstream.Pod)
		out.Header.Set(HeaderRevision, x.upstream.Revision)
	}
}

// roundTripper is the Transport, kept from sending anything twice by itself.
type roundTripper struct{ transport *http.Transport }

// RoundTrip implements http.RoundTripper.
func (t roundTripper) RoundTrip(out *http.Request) (*http.Response, error) {
	x := exchangeOf(out.Context())
	trace := &httptrace.ClientTrace{WroteHeaders: func() { x.wroteHeaders.Store(true) }}
	if x.clock.runs() {
		trace.WroteRequest = func(httptrace.WroteRequestInfo) { x.clock.sent() }
	}
	out = out.WithContext(httptrace.WithClientTrace(out.Context(), trace))
	if out.Body == nil {
		out.Body = emptyBody(out)
	}
	out.GetBody = nil
	return t.transport.RoundTrip(out)
}

var (
	errRefused   = errors.New("refused by the upstream")
	errWrongOne  = errors.New("another lease answers at the upstream's address")
	errNoRefusal = errors.New("the upstream's refusal carries no nonce it could know")
)

// modifyResponse tells refusals from answers and takes SanFran's own headers
// off the latter.
func modifyResponse(res *http.Response) error {
	x := exchangeOf(res.Request.Context())
	if res.StatusCode == http.StatusMisdirectedRequest {
		switch nonce := res.Header.Get(HeaderRefused); {
		case nonce == "":
			// A function's own 421 is just an answer.
		case x.upstream.Nonce == "":
			return errNoRefusal
		case nonce == x.upstream.Nonce:
			return errRefused
		default:
			return errWrongOne
		}
	}
	x.works = true
	x.place.leave()
	if x.clock.runs() {
		x.clock.answer(res.StatusCode == http.StatusSwitchingProtocols)
		if x.opts.Policy.StreamIdle > 0 && res.StatusCode != http.StatusSwitchingProtocols {
			res.Body = touchedBody{res.Body, &x.clock}
		}
	}
	StripHeaders(res.Header)
	if x.opts.Cookie != "" {
		res.Header.Add("Set-Cookie", x.opts.Cookie)
	}
	if _, own := res.Header[HeaderRequestID]; !own && x.opts.Edge {
		res.Header[HeaderRequestID] = x.r.Header[HeaderRequestID]
	}
	if x.body != nil {
		// Without this the server reads what is left of the client's body, to
		// throw it away, before it begins an HTTP/1 answer: the function would
		// miss what it has not read yet. Other protocols need not be told.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
	return nil
}

// handleError is called in place of an answer.
func (f *Forwarder) handleError(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	if errors.Is(err, errRefused) {
		x.outcome = Refused
		return
	}
	if problem := expired(r.Context()); problem != nil {
		WriteProblem(w, r, *problem)
		return
	}
	if x.body.tooLarge() {
		WriteProblem(w, r, bodyTooLarge(x.opts.Policy.maxBody))
		return
	}
	if r.Context().Err() != nil {
		// The client is gone (or its deadline passed). 499 is nginx's word for
		// it; it is seen in logs and metrics only.
		w.WriteHeader(499)
		return
	}
	if !x.wroteHeaders.Load() && !errors.Is(err, errWrongOne) && !errors.Is(err, errNoRefusal) {
		x.outcome = NotDelivered
		f.log.Debug("request not delivered", "upstream", x.upstream.Address, "err", err)
		return
	}
	x.broke = true
	f.log.Warn("upstream failed", "upstream", x.upstream.Address, "method", r.Method, "requestId", r.Header.Get(HeaderRequestID), "err", err)
	problem := x.explain(r.Context())
	if problem == nil {
		problem = &Problem{
			Status:  http.StatusBadGateway,
			Code:    "UpstreamFailed",
			Message: fmt.Sprintf("the function's container broke the connection before it answered (%v); the request may have been executed and was not sent again", err),
		}
	}
	WriteProblem(w, r, *problem)
}

// bufferPool lends the buffers that bodies are copied through.
type bufferPool struct{}

var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// Get implements httputil.BufferPool.
func (bufferPool) Get() []byte { return buffers.Get().(*[32 << 10]byte)[:] }

// Put implements httputil.BufferPool.
func (bufferPool) Put(b []byte) { buffers.Put((*[32 << 10]byte)(b)) }
