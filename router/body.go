package router

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// replayLimit is how much of a request's body is kept, in bytes, so that the
// request can be sent again after a refusal. A refusal comes before the worker
// reads the body, so that what was sent by then is what fitted into the
// sockets' buffers; for a body beyond the limit the request is given up.
const replayLimit = 64 << 10

var errDetached = errors.New("the request body belongs to a later attempt")

// replayBody lets several attempts, one after the other, read one request
// body from its start.
//
// What sends a body waits for the client, whom nothing hurries, so an attempt that is over can be inside Read while the next begins. Whatever it
// still reads from the client lands in kept, where the next attempt finds it.
// The lock is not held meanwhile: the client may be waiting for an answer
// before it sends more, and the next attempt may bring that answer.
type replayBody struct {
	src io.Reader
	// clients holds the trailers the client has announced, without values. The
	// server adds these when src ends: who has not seen that does not look.
	clients   http.Header
	announced []string

	mu sync.Mutex
	// idle is signalled when reading turns false: nobody reads from src.
	idle    sync.Cond
	reading bool
	kept    []byte
	err     error // the end of src, once seen
	// overflowed is set when bytes went by that were not kept.
	overflowed bool
	current    *attemptBody
}

func newReplayBody(src io.Reader, trailer http.Header) *replayBody {
	b := &replayBody{src: src, clients: trailer}
	b.idle.L = &b.mu
	for name := range trailer {
		if !isFamily(name, headerPrefix) {
			b.announced = append(b.announced, name)
		}
	}
	return b
}

// attempt returns the body for the next attempt, read from its start, and
// detaches the one before. It reports false if bytes are gone that the attempt
// would need.
func (b *replayBody) attempt() (*attemptBody, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.overflowed {
		return nil, false
	}
	b.current = &attemptBody{body: b}
	if len(b.announced) > 0 {
		b.current.trailer = make(http.Header, len(b.announced))
		for _, name := range b.announced {
			b.current.trailer[name] = nil
		}
	}
	b.idle.Broadcast() // the former attempt is over
	return b.current, true
}

// attemptBody is one attempt's view of the body. Close does not close the
// client's body, which is the server's to close.
type attemptBody struct {
	body *replayBody
	pos  int
	// trailer has the names that the client has announced. Read adds the values
	// before it returns io.EOF, for its caller.
	trailer http.Header
}

// Read implements io.Reader.
func (a *attemptBody) Read(p []byte) (int, error) {
	b := a.body
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.current != a:
			return 0, errDetached
		case a.pos < len(b.kept):
			n := copy(p, b.kept[a.pos:])
			a.pos += n
			return n, nil
		case b.err != nil:
			a.end()
			return 0, b.err
		case !b.reading:
			return a.readOn(p)
		}
		b.idle.Wait()
	}
}

// readOn reads from the client what nobody has read before. The caller holds
// the lock, which is let go of meanwhile.
func (a *attemptBody) readOn(p []byte) (int, error) {
	b := a.body
	b.reading = true
	b.mu.Unlock()
	n, err := b.src.Read(p)
	b.mu.Lock()
	b.reading, b.err = false, err
	b.idle.Broadcast()
	over := b.current != a
	switch {
	case b.overflowed:
	case over || len(b.kept)+n <= replayLimit:
		// What an attempt reads that is over is the next one's to send, however
		// much was kept before.
		b.kept = append(b.kept, p[:n]...)
		a.pos += n
	default:
		// From here on there is this attempt alone.
		b.overflowed = true
		b.kept, a.pos = nil, 0
	}
	if over {
		return 0, errDetached
	}
	a.end()
	return n, err
}

// end takes over the client's trailers once its body has ended. The caller holds
// the lock.
func (a *attemptBody) end() {
	if !errors.Is(a.body.err, io.EOF) {
		return
	}
	for name := range a.trailer {
		a.trailer[name] = a.body.clients[name]
	}
}

// Close implements io.Closer.
func (a *attemptBody) Close() error { return nil }
