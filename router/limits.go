package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// limitError is why a request was ended that took too long. It is the cause of its
// context's end.
type limitError struct {
	code, what, annotation string
	limit                  time.Duration
}

func (e *limitError) Error() string { return fmt.Sprintf("%s within %v", e.what, e.limit) }

func (e *limitError) problem() *Problem {
	return &Problem{
		Status:  http.StatusGatewayTimeout,
		Code:    e.code,
		Message: fmt.Sprintf("%s within %v; the request may have been executed and was not sent again. The function's annotation %s sets the limit", e.what, e.limit, e.annotation),
	}
}

// clock ends one request when a limit of its policy has passed. Timers run in
// goroutines of their own, and so does what sends a body.
type clock struct {
	policy *Policy
	cancel context.CancelCauseFunc

	mu sync.Mutex
	// answered: the answer's headers are there. ended: nothing runs any more.
	answered, ended        bool
	firstByte, idle, total *time.Timer
}

// runs says whether start was called.
func (c *clock) runs() bool { return c.policy != nil }

// start returns the context that the limits end. The caller calls stop.
func (c *clock) start(ctx context.Context, policy *Policy) context.Context {
	c.policy = policy
	ctx, c.cancel = context.WithCancelCause(ctx)
	if d := policy.Total; d > 0 {
		c.total = time.AfterFunc(d, func() {
			c.cancel(&limitError{"RequestTimeout", "the request did not come to its end", "sanfran.dev/request-timeout", d})
		})
	}
	return ctx
}

// sent begins the wait for the answer: the upstream has all of the request.
func (c *clock) sent() {
	d := c.policy.FirstByte
	if d <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.answered || c.ended:
	case c.firstByte != nil: // of an earlier attempt
		c.firstByte.Reset(d)
	default:
		c.firstByte = time.AfterFunc(d, func() {
			c.cancel(&limitError{"FirstByteTimeout", "the function did not begin to answer", "sanfran.dev/first-byte-timeout", d})
		})
	}
}

// answer ends the wait for the answer, and begins the one for its next byte. An
// upgraded connection is no request any more that comes to its end.
func (c *clock) answer(upgraded bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
	stop(c.firstByte)
	if upgraded {
		stop(c.total)
	}
	if d := c.policy.StreamIdle; d > 0 && !c.ended {
		c.idle = time.AfterFunc(d, func() {
			c.cancel(&limitError{"StreamIdleTimeout", "no byte came or went", "sanfran.dev/stream-idle-timeout", d})
		})
	}
}

// touch tells that a byte came or went.
func (c *clock) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.idle != nil && !c.ended {
		c.idle.Reset(c.policy.StreamIdle)
	}
}

// stop ends all limits, and the context.
func (c *clock) stop() {
	c.mu.Lock()
	c.ended = true
	stop(c.firstByte)
	stop(c.idle)
	stop(c.total)
	c.mu.Unlock()
	c.cancel(nil)
}

func stop(t *time.Timer) {
	if t != nil {
		t.Stop()
	}
}

// expired returns the problem of a context that a limit has ended, nil for any other.
func expired(ctx context.Context) *Problem {
	var limit *limitError
	if errors.As(context.Cause(ctx), &limit) {
		return limit.problem()
	}
	return nil
}

// touchedBody tells of every byte of an answer, or of a request, that it was read.
type touchedBody struct {
	io.ReadCloser
	clock *clock
}

// Read implements io.Reader.
func (b touchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.clock.touch()
	return n, err
}

// touchedConn tells of every byte of an upgraded connection.
type touchedConn struct {
	net.Conn
	clock *clock
}

// Read implements io.Reader.
func (c touchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.clock.touch()
	return n, err
}

// Write implements io.Writer.
func (c touchedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.clock.touch()
	return n, err
}

// CloseWrite ends one direction, as the connection's own does.
func (c touchedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// limitedBody is a request's body of unknown length that must not be larger than
// left. It keeps nothing.
type limitedBody struct {
	io.Reader
	left int64
}

var errBodyTooLarge = errors.New("the request's body is larger than the function takes")

// Read implements io.Reader. What is over the limit is not handed on.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errBodyTooLarge
	}
	if int64(len(p)) > b.left+1 { // one more, to see whether there is more
		p = p[:b.left+1]
	}
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, errBodyTooLarge
	}
	return n, err
}

func bodyTooLarge(limit int64) Problem {
	return Problem{
		Status:  http.StatusRequestEntityTooLarge,
		Code:    "BodyTooLarge",
		Message: fmt.Sprintf("the request's body is larger than the %d bytes that the function takes; its annotation sanfran.dev/max-body sets the limit", limit),
	}
}
