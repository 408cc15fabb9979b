package router

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// HeaderFate is set on a request to a home agent that asks why the container of
// a lease broke off a request. Its value is "pod lease"; who knows the lease may ask.
// The request has no [HeaderPod], so that an agent that does not know the header
// refuses it and does not take it for one to the function.
const HeaderFate = headerPrefix + "Fate"

const (
	// fateTimeout bounds the question: an agent needs a second at most, for a
	// container that is about to end.
	fateTimeout = 4 * time.Second
	maxFate     = 64 << 10
)

// AskedFate returns whose fate a request asks for, if it does.
func AskedFate(r *http.Request) (pod, lease string, ok bool) {
	pod, lease, _ = strings.Cut(r.Header.Get(HeaderFate), " ")
	return pod, lease, pod != ""
}

// WriteFate is a home agent's answer: the problem to tell the client whose
// request was broken off, or nil if the agent knows nothing of an end.
func WriteFate(w http.ResponseWriter, p *Problem) {
	if p == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(p) // the gateway may be gone
}

// askFate asks the home agent of a pod why the container of a lease broke off a
// request. It returns nil if that cannot be found out: then the request failed
// for no known reason. The request itself is not part of the question.
func (f *Forwarder) askFate(ctx context.Context, home *Pod, lease string) *Problem {
	ctx, cancel := context.WithTimeout(ctx, fateTimeout)
	defer cancel()
	res, err := f.ask(ctx, home.HomeAddress, HeaderFate, home.UID+" "+lease)
	if err != nil {
		f.log.Debug("the end of a lease is not known", "pod", home.UID, "err", err)
		return nil
	}
	defer res.Body.Close()
	var p Problem
	if res.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(res.Body, maxFate)).Decode(&p) != nil ||
		p.Status < 500 || p.Status > 599 || p.Code == "" {
		return nil
	}
	return &p
}

// explain finds out why the upstream broke off the attempt.
func (x *Exchange) explain(ctx context.Context) *Problem {
	switch {
	case x.upstream.Home != nil && x.upstream.Lease != "":
		return x.forwarder.askFate(ctx, x.upstream.Home, x.upstream.Lease)
	case x.opts.Explain != nil:
		return x.opts.Explain(ctx)
	}
	return nil
}

// ask sends a request without a body and with one header to an agent, on a
// connection of its own. The caller closes the response's body.
func (f *Forwarder) ask(ctx context.Context, address, header, value string) (*http.Response, error) {
	conn, err := f.upstreams.dial(ctx, address, f.dialTimeout)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, conn.abort)
	fail := func(err error) (*http.Response, error) {
		stop()
		return nil, errors.Join(err, conn.Close())
	}
	head := appendField(fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", address), header, value)
	if _, err := conn.Write(append(head, "\r\n"...)); err != nil {
		return fail(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(io.LimitReader(conn, 2*maxFate)), nil)
	if err != nil {
		return fail(err)
	}
	res.Body = &askedBody{res.Body, func() error { stop(); return conn.Close() }}
	return res, nil
}

// askedBody closes the connection with the body.
type askedBody struct {
	io.Reader
	close func() error
}

// Close implements io.Closer.
func (b *askedBody) Close() error { return b.close() }
