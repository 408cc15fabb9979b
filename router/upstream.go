package router

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idleTimeout is how long a connection waits for its next request. Agents
	// wait longer, and containers never close a gateway's connection.
	idleTimeout = 90 * time.Second
	// maxIdle is how many connections to one address wait.
	maxIdle = 256
	// sweepEvery is how often waiting connections are looked through: one whose
	// container has gone is kept no longer.
	sweepEvery = 15 * time.Second
	// maxResponseHead bounds what a hostile function's interim responses and
	// headers take of the router's memory, in bytes.
	maxResponseHead = 1 << 20
	// headerBytes is what a line of it takes beside its own bytes, in the maps of a
	// response and of its answer. A short one would else take thirty times its size.
	headerBytes = 200
)

var lineEnd = []byte{'\n'}

// upstreams are the connections to containers and agents. A connection belongs to
// the request that got it until that puts it back or closes it. HTTP/1.1 is
// spoken on them by the requests' own goroutines, one request at a time:
// http.Transport has two goroutines for each connection, and every request is
// handed to one and every answer back by the other.
type upstreams struct {
	dialer net.Dialer // safe for concurrent use

	mu     sync.Mutex
	idle   map[string][]*upstreamConn // by address, in the order they came
	ahead  map[string]*upstreamConn   // opened before there was a request for them
	sweep  *time.Timer                // runs while idle is not empty
	closed bool
}

func newUpstreams() *upstreams {
	return &upstreams{
		dialer: net.Dialer{KeepAlive: 15 * time.Second},
		idle:   make(map[string][]*upstreamConn),
		ahead:  make(map[string]*upstreamConn),
	}
}

// get returns a connection to an address: one that waits, with reused set, or a
// new one, made within a time.
func (u *upstreams) get(ctx context.Context, address string, within time.Duration) (*upstreamConn, error) {
	for {
		c := u.take(address)
		if c == nil {
			c = u.swapAhead(address, nil)
		}
		if c == nil {
			return u.dial(ctx, address, within)
		}
		if c.quiet() {
			c.reused = true
			return c, nil
		}
		c.Close()
	}
}

// take returns the connection that was put back last, or nil.
func (u *upstreams) take(address string) *upstreamConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	conns := u.idle[address]
	if len(conns) == 0 {
		return nil
	}
	last := len(conns) - 1
	c := conns[last]
	conns[last] = nil
	u.idle[address] = conns[:last]
	return c
}

func (u *upstreams) dial(ctx context.Context, address string, within time.Duration) (*upstreamConn, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := u.dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c := &upstreamConn{TCPConn: conn.(*net.TCPConn), address: address}
	if c.raw, err = c.SyscallConn(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	c.peek = func(fd uintptr) bool {
		_, err := unix.Read(int(fd), c.peeked[:])
		c.alive = errors.Is(err, syscall.EAGAIN)
		return true
	}
	c.abort = func() { _ = c.Close() }
	return c, nil
}

// put takes back a connection whose last answer was read to its end.
func (u *upstreams) put(c *upstreamConn) {
	c.since = time.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed || len(u.idle[c.address]) >= maxIdle {
		c.Close()
		return
	}
	u.idle[c.address] = append(u.idle[c.address], c)
	if u.sweep == nil {
		u.sweep = time.AfterFunc(sweepEvery, u.clean)
	}
}

// clean closes the connections that have waited for too long or that the other
// end has closed.
func (u *upstreams) clean() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for address, conns := range u.idle {
		kept := conns[:0]
		for _, c := range conns {
			if time.Since(c.since) < idleTimeout && c.quiet() {
				kept = append(kept, c)
			} else {
				c.Close()
			}
		}
		clear(conns[len(kept):])
		if u.idle[address] = kept; len(kept) == 0 {
			delete(u.idle, address)
		}
	}
	if u.sweep = nil; len(u.idle) > 0 && !u.closed {
		u.sweep = time.AfterFunc(sweepEvery, u.clean)
	}
}

// close closes the connections that wait; none waits any more from then on.
func (u *upstreams) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, conns := range u.idle {
		for _, c := range conns {
			c.Close()
		}
	}
	clear(u.idle)
	for _, c := range u.ahead {
		c.Close()
	}
	clear(u.ahead)
	if u.sweep != nil {
		u.sweep.Stop()
		u.sweep = nil
	}
}

// upstreamConn is one connection to a container or an agent.
type upstreamConn struct {
	*net.TCPConn
	address string
	raw     syscall.RawConn
	// reused says that the connection has waited for the request.
	reused bool
	since  time.Time // it waits since then
	// abort closes the connection; made once, as every request needs it.
	abort func()

	// Of quiet:
	peek   func(fd uintptr) bool
	peeked [1]byte
	alive  bool
}

// quiet reports whether a connection that waits is open and nobody has said
// anything on it. It costs one system call, and saves a request that would be
// lost on a connection the other end has closed.
func (c *upstreamConn) quiet() bool {
	c.alive = false
	err := c.raw.Read(c.peek)
	return err == nil && c.alive
}

var errHeadTooLarge = errors.New("the response's headers take more than 1 MiB of memory")

// responseReader reads the responses of one request from its connection. It is
// lent by readers while the request runs, so that connections that wait have no
// buffers.
type responseReader struct {
	*bufio.Reader
	conn io.Reader
	left int64 // bytes that its head may still take
}

var readers = sync.Pool{New: func() any {
	r := new(responseReader)
	r.Reader = bufio.NewReaderSize(r.limited(), 4<<10)
	return r
}}

// limited is what the buffer is filled from.
func (r *responseReader) limited() io.Reader { return (*limitedConn)(r) }

type limitedConn responseReader

// Read implements io.Reader.
func (r *limitedConn) Read(p []byte) (int, error) {
	if r.left <= 0 {
		return 0, errHeadTooLarge
	}
	n, err := r.conn.Read(p[:min(int64(len(p)), r.left)])
	if r.left -= int64(n); r.left <= maxResponseHead { // not of a body
		r.left -= headerBytes * int64(bytes.Count(p[:n], lineEnd))
	}
	return n, err
}

func borrowReader(conn io.Reader) *responseReader {
	r := readers.Get().(*responseReader)
	r.conn, r.left = conn, maxResponseHead
	return r
}

func (r *responseReader) giveBack() {
	r.conn = nil
	r.Reset(r.limited())
	readers.Put(r)
}

// response reads the head of the next response, which may be an interim one.
func (r *responseReader) response(req *http.Request) (*http.Response, error) {
	res, err := http.ReadResponse(r.Reader, req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
		r.left = math.MaxInt64
	}
	return res, nil
}
