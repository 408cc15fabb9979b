package router

import (
	"errors"
	"io"
	"net/http"
)

// interim passes a 1xx answer on, which comes before the answer proper.
func (x *Exchange) interim(res *http.Response) {
	if res.StatusCode == http.StatusContinue || !x.r.ProtoAtLeast(1, 1) {
		return // the server says it by itself when the body is read
	}
	h := x.w.Header()
	kept := make(http.Header, len(h))
	for name, values := range h {
		kept[name] = values
	}
	clear(h)
	passHeaders(h, res.Header)
	x.w.WriteHeader(res.StatusCode)
	clear(h)
	for name, values := range kept {
		h[name] = values
	}
}

// passHeaders adds an upstream's headers to the client's answer, but for those
// that end here and SanFran's own.
func passHeaders(to, from http.Header) {
	ending := namedByConnection(from["Connection"])
	for name, values := range from {
		if hopByHop(name) || isFamily(name, headerPrefix) || ending[name] {
			continue
		}
		if had, ok := to[name]; ok {
			values = append(had[:len(had):len(had)], values...)
		}
		to[name] = values
	}
}

// answer passes the upstream's answer on. It reports whether all of it came, so
// that the connection can take another request; it panics with
// http.ErrAbortHandler if the client is to see that something is missing.
func (x *Exchange) answer(res *http.Response, in *responseReader) bool {
	h := x.w.Header()
	passHeaders(h, res.Header)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or the server would guess one
	}
	if _, own := h[HeaderRequestID]; !own && x.opts.Edge {
		h[HeaderRequestID] = x.r.Header[HeaderRequestID]
	}
	announced := len(res.Trailer)
	for name := range res.Trailer {
		if !isFamily(name, headerPrefix) {
			h["Trailer"] = append(h["Trailer"], name)
		}
	}
	to := x.taking()
	defer to.end()
	x.w.WriteHeader(res.StatusCode)
	if err := x.copyBody(&to, res, in); err != nil {
		panic(http.ErrAbortHandler)
	}
	for name, values := range res.Trailer {
		switch {
		case isFamily(name, headerPrefix):
		case len(res.Trailer) == announced:
			h[name] = values
		default:
			h[http.TrailerPrefix+name] = values
		}
	}
	return !res.Close
}

// copyBody copies an answer's body as it comes: what has come is on its way to the
// client before more is waited for.
func (x *Exchange) copyBody(to *taking, res *http.Response, in *responseReader) error {
	if res.Body == http.NoBody || res.ContentLength == 0 {
		return nil
	}
	if in.Buffered() == 0 {
		if err := to.flush(); err != nil {
			return err
		}
	}
	buffer := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buffer)
	idles := x.idles()
	var written int64
	for {
		n, readErr := res.Body.Read(buffer[:])
		if idles {
			x.clock.touch()
		}
		if n > 0 {
			if err := to.write(buffer[:n]); err != nil {
				return err
			}
			written += int64(n)
		}
		switch {
		case errors.Is(readErr, io.EOF), written == res.ContentLength:
			return nil
		case readErr != nil:
			return readErr
		case in.Buffered() == 0:
			if err := to.flush(); err != nil {
				return err
			}
		}
	}
}
