package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
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

	outcomeCount = iota
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
	// ClientStall is how long a client may send nothing of a body before the answer, or
	// take nothing of an answer, or of an upgraded connection, beyond what the kernel's
	// buffers hold. Then it is cut off, as it keeps a goroutine, or the function's
	// container, for it. Default 1 min.
	ClientStall time.Duration
	// Log receives what went wrong with upstreams. Default slog.Default().
	Log *slog.Logger
}

// Forwarder forwards requests over one pool of connections. It is safe for
// concurrent use. Close its idle connections with [Forwarder.Close].
type Forwarder struct {
	upstreams   *upstreams
	dialTimeout time.Duration
	clientStall time.Duration
	log         *slog.Logger
}

// NewForwarder returns a Forwarder.
func NewForwarder(cfg ForwarderConfig) *Forwarder {
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = 2 * time.Second
	}
	if cfg.ClientStall == 0 {
		cfg.ClientStall = clientStall
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	return &Forwarder{upstreams: newUpstreams(), dialTimeout: cfg.DialTimeout, clientStall: cfg.ClientStall, log: cfg.Log}
}

// Close closes the connections that no request uses. Requests that are still
// there, and later ones, go on without keeping any.
func (f *Forwarder) Close() { f.upstreams.close() }

// Exchange is one client request and its attempts. It is used by one
// goroutine, the request's.
type Exchange struct {
	forwarder *Forwarder
	w         http.ResponseWriter
	r         *http.Request
	// ctx ends with the request's own, and when a limit of the policy has passed.
	ctx  context.Context
	opts ExchangeOptions
	body *replayBody // nil for a request without a body
	// upgrade is the protocol that the client asks for, "" if it asks for none.
	// tunnel says that it does so by an extended CONNECT of HTTP/2.
	upgrade string
	tunnel  bool
	// expects says that the client waits for 100 (Continue) before it sends the body.
	expects bool

	// Of the current attempt:
	upstream Upstream
	sending  *sending // nil without a body
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
	// Trusted is set at the edge where who connects is a proxy whose word on the
	// client is believed: X-Forwarded-* and Forwarded are continued.
	Trusted bool
	// Client is host:port of a client that connected to the function pod's own
	// address, as whom the function sees it. Empty: the function sees who forwards.
	Client string
	// Policy has the limits of time and size; nil: none but the Forwarder's own. Who
	// sets it calls [Exchange.End].
	Policy *Policy
	// Cookie, if not empty, is added to the function's answer as Set-Cookie.
	Cookie string
	// Explain, if not nil, is asked why an upstream without Home broke the connection
	// before it answered; nil is no reason. It may wait until the reason is known.
	Explain func(ctx context.Context) *Problem
}

// Begin prepares a request for its attempts.
func (f *Forwarder) Begin(w http.ResponseWriter, r *http.Request, opts ExchangeOptions) *Exchange {
	x := &Exchange{forwarder: f, w: w, r: r, ctx: r.Context(), opts: opts}
	policy := opts.Policy
	if policy != nil && policy.timed() {
		x.ctx = x.clock.start(x.ctx, policy)
	}
	if isTunnel(r) {
		x.tunnel, x.upgrade = true, r.Header[":protocol"][0]
		return x
	}
	if r.Body != nil && r.Body != http.NoBody && r.ContentLength != 0 {
		body := r.Body
		if x.idles() {
			body = touchedBody{body, &x.clock}
		}
		if policy != nil && policy.maxBody > 0 && r.ContentLength < 0 {
			x.body = newReplayBody(&limitedBody{body, policy.maxBody}, r.Trailer)
		} else {
			x.body = newReplayBody(body, r.Trailer)
		}
		x.expects = strings.EqualFold(r.Header.Get("Expect"), "100-continue")
	} else if r.ProtoAtLeast(1, 1) {
		// An upgrade offered with a body is not passed on, which is always allowed.
		x.upgrade = upgradeOf(r.Header)
	}
	return x
}

// End says that there will be no further attempt.
func (x *Exchange) End() {
	x.place.leave()
	if x.clock.runs() {
		x.clock.stop()
	}
}

// idles reports whether the policy bounds the time without a byte.
func (x *Exchange) idles() bool { return x.clock.runs() && x.opts.Policy.StreamIdle > 0 }

// sent tells the clock that the upstream has all of the request.
func (x *Exchange) sent() {
	if x.clock.runs() {
		x.clock.sent()
	}
}

// connectTimeout is how long connecting may take.
func (x *Exchange) connectTimeout() time.Duration {
	if x.opts.Policy != nil {
		return x.opts.Policy.Connect
	}
	return x.forwarder.dialTimeout
}

// Try sends the request to an upstream. Unless the outcome is [Answered] the
// caller may try another upstream, or answer the client itself.
//
// It panics with http.ErrAbortHandler when the upstream breaks off in the middle
// of its answer, or when the client does not take it.
func (x *Exchange) Try(upstream Upstream) Outcome {
	rec := recordOf(x.w)
	rec.attempt()
	outcome := x.try(upstream)
	rec.attempted(outcome)
	return outcome
}

func (x *Exchange) try(upstream Upstream) Outcome {
	x.upstream, x.broke, x.works = upstream, false, false
	var body *attemptBody
	if x.body != nil {
		var ok bool
		if body, ok = x.body.attempt(); !ok {
			return Spent
		}
	}
	if problem := x.unsendable(); problem != nil {
		x.w.Header().Set("Connection", "close")
		WriteProblem(x.w, x.r, *problem)
		return Answered
	}
	buffer := heads.Get().(*[]byte)
	defer heads.Put(buffer)
	*buffer = x.appendHead((*buffer)[:0], body)
	for {
		conn, err := x.forwarder.upstreams.get(x.ctx, upstream.Address, x.connectTimeout())
		if err != nil {
			return x.undelivered(err)
		}
		// The client's leaving is the connection's end.
		stop := context.AfterFunc(x.ctx, conn.abort)
		n, err := conn.Write(*buffer)
		switch {
		case err == nil:
			return x.exchange(conn, stop, body)
		case n > 0:
			stop()
			conn.Close()
			return x.failed(fmt.Errorf("send the request's head: %w", err))
		}
		stop()
		conn.Close()
		// The upstream may have closed a connection that waited; it did not say
		// anything of those to come.
		if !conn.reused || x.ctx.Err() != nil {
			return x.undelivered(err)
		}
	}
}

// exchange goes on with an attempt whose head was sent: some function code may
// have seen it.
func (x *Exchange) exchange(conn *upstreamConn, stop func() bool, body *attemptBody) Outcome {
	reuse := false
	if x.sending = nil; body != nil {
		x.sending = x.send(conn, body)
	} else {
		x.sent()
	}
	in := borrowReader(conn.TCPConn)
	defer func() {
		complete := x.sending.end()
		if stop() && reuse && complete && in.Buffered() == 0 {
			x.forwarder.upstreams.put(conn)
		} else {
			conn.Close()
		}
		in.giveBack()
	}()
	for {
		res, err := in.response(x.r)
		if err != nil {
			return x.broken(fmt.Errorf("read the answer: %w", err))
		}
		switch {
		case res.StatusCode < 100:
			return x.failed(fmt.Errorf("read the answer: the status %d is none", res.StatusCode))
		case res.StatusCode == http.StatusSwitchingProtocols:
			protocol := upgradeOf(res.Header)
			if protocol == "" || !named([]string{x.upgrade}, protocol) {
				return x.failed(fmt.Errorf("the container switched to %q, the client had asked for %q", res.Header.Get("Upgrade"), x.upgrade))
			}
			x.upgrade = protocol // one of those that the client has offered
			x.begins(res)
			x.takeOver(res, conn, in)
			return Answered
		case res.StatusCode == http.StatusContinue && x.sending != nil:
			x.sending.continued()
		case res.StatusCode < 200:
			x.interim(res)
		default:
			if refused, err := x.refused(res); err != nil {
				return x.failed(err)
			} else if refused {
				x.sending.answered()
				reuse = !res.Close && res.ContentLength == 0
				return Refused
			}
			x.begins(res)
			if x.tunnel && res.StatusCode < 300 {
				// To the client it would mean that the tunnel stands.
				WriteProblem(x.w, x.r, Problem{
					Status: http.StatusNotImplemented, Code: "NoUpgrade",
					Message: fmt.Sprintf("the function answered with status %d and did not upgrade the connection to %s", res.StatusCode, x.upgrade),
				})
				return Answered
			}
			// Who was offered another protocol may have stopped to read requests.
			reuse = x.answer(res, in) && x.upgrade == ""
			return Answered
		}
	}
}

// begins notes that the answer is there.
func (x *Exchange) begins(res *http.Response) {
	x.works = true
	x.place.leave()
	x.sending.answered()
	if x.clock.runs() {
		x.clock.answer(res.StatusCode == http.StatusSwitchingProtocols)
	}
	if x.opts.Cookie != "" {
		res.Header.Add("Set-Cookie", x.opts.Cookie)
	}
}

var (
	errWrongOne  = errors.New("another lease answers at the upstream's address")
	errNoRefusal = errors.New("the upstream's refusal carries no nonce it could know")
)

// refused tells refusals from answers.
func (x *Exchange) refused(res *http.Response) (bool, error) {
	if res.StatusCode != http.StatusMisdirectedRequest {
		return false, nil
	}
	switch nonce := res.Header.Get(HeaderRefused); {
	case nonce == "":
		return false, nil // a function's own 421 is just an answer
	case x.upstream.Nonce == "":
		return false, errNoRefusal
	case nonce == x.upstream.Nonce:
		return true, nil
	default:
		return false, errWrongOne
	}
}

// bufferSize is of the buffers that bodies are copied through, in bytes.
const bufferSize = 32 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}
