package router

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// restWait is how long an answered client may take for the rest of its body, if
	// its connection of HTTP/1 is to serve another request.
	restWait = time.Second
	// restLimit is how much of it is read for that, in bytes; net/http's own.
	restLimit = 256 << 10
)

// WholeRequests serves requests of HTTP/1 that are answered before their body has
// ended: the answer does not wait for the rest, and the rest is never taken for a
// request. A body that does not end soon after the answer ends its connection.
//
// net/http alone waits for the rest before it answers, however long. Told not to, it
// reads on while a handler's goroutine still does, and takes a body whose read has
// failed for one that has ended. So nobody but this reads when the handler has
// returned. It goes around every other handler.
func WholeRequests(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 || r.ContentLength == 0 {
			next.ServeHTTP(w, r)
			return
		}
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		body := &clientBody{src: r.Body}
		own := r.WithContext(r.Context()) // the server looks at its own one's body
		own.Body = body
		answered := false
		defer func() { body.leave(w, control, answered) }()
		next.ServeHTTP(w, own)
		answered = true
	})
}

// clientBody is a client's body, of which nothing is read after leave.
type clientBody struct {
	src   io.ReadCloser
	ended atomic.Bool

	mu   sync.Mutex // held while somebody reads
	left bool
}

var errLeft = errors.New("the request is over")

// Read implements io.Reader.
func (b *clientBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left {
		return 0, errLeft
	}
	return b.read(p)
}

func (b *clientBody) read(p []byte) (int, error) {
	n, err := b.src.Read(p)
	if errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

// Close implements io.Closer.
func (b *clientBody) Close() error { return nil } // the server does

// leave ends the body's use. An answer that was broken off is not waited for.
func (b *clientBody) leave(w http.ResponseWriter, control *http.ResponseController, answered bool) {
	if b.ended.Load() {
		return
	}
	until := time.Now()
	if answered {
		until = until.Add(restWait)
	}
	if err := control.SetReadDeadline(until); err != nil {
		return // a test's writer
	}
	answered = answered && control.Flush() == nil
	b.mu.Lock()
	defer b.mu.Unlock()
	if answered && !b.ended.Load() {
		_, _ = io.CopyN(io.Discard, lockedBody{b}, restLimit) // how it ended is in ended
	}
	b.left = true
	if b.ended.Load() {
		// The server reads in the background since, to see the client go.
		_ = control.SetReadDeadline(time.Time{})
		return
	}
	closeAfterAnswer(w)
}

// lockedBody reads a body whose lock is held.
type lockedBody struct{ *clientBody }

// Read implements io.Reader.
func (b lockedBody) Read(p []byte) (int, error) { return b.read(p) }

// closeAfterAnswer has net/http's server close the connection in its own way, half
// first, for a client that still sends. That can be said of a body that is too large
// only, and unlike a header when the answer is on its way already.
func closeAfterAnswer(w http.ResponseWriter) {
	tooLarge := http.MaxBytesReader(w, io.NopCloser(strings.NewReader("xx")), 1)
	_, _ = io.Copy(io.Discard, tooLarge)
}
