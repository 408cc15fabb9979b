package workerconn

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrClosed is the end of a connection that was closed by its owner.
var ErrClosed = errors.New("workerconn: closed")

// writeTimeout bounds how long a worker may leave a message unread.
const writeTimeout = 5 * time.Second

// A worker reports at most about 20 times a second; these bounds leave much
// room for a clock that stutters and none for a flood.
const (
	messagesBurst     = 1000
	messagesPerSecond = 200
)

// Conn is the agent's end of one worker's control socket. It is safe for
// concurrent use. Its owner closes it; Close waits for its one goroutine.
type Conn struct {
	sock       net.Conn
	onActivity func(Activity)

	warm    chan struct{}
	loaded  chan struct{}
	drained chan struct{}
	done    chan struct{}

	writing sync.Mutex

	// adopted says that another process has begun the conversation; torn, until
	// the first line, that it may have read half of that.
	adopted, torn bool

	mu     sync.Mutex
	state  state
	loadMs float64
	failed *LoadError
	last   Activity
	// cache is the name of the worker's compile caches.
	cache string
	// compiled is not nil while the worker is asked to write what V8 has
	// compiled, and closed when it has.
	compiled chan struct{}
	// heard is when the worker last said anything.
	heard time.Time
	// server says, once ready, that the function listens by itself.
	server bool
	// sigterm says, once drained, that the function listens for SIGTERM.
	sigterm bool
	ending  *Ending
	err     error
}

// state is how far the conversation has come.
type state int

const (
	booting state = iota
	warm
	activating
	ready
	failed
	draining
	drained
	terminating
)

// Pair makes a connected pair of sockets: the agent's Conn, and the file that
// the container inherits. The caller closes the file once the container has
// it. See New about onActivity.
func Pair(onActivity func(Activity)) (*Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("workerconn: make a socket pair: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "worker control, agent's end")
	theirs := os.NewFile(uintptr(fds[1]), "worker control, worker's end")
	sock, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("workerconn: use the socket pair: %w", err)
	}
	return New(sock, onActivity), theirs, nil
}

// New speaks the protocol on sock, which it owns from now on. onActivity is
// called, from one goroutine and in order, for every activity report; it must
// not block. It may be nil.
func New(sock net.Conn, onActivity func(Activity)) *Conn {
	c := newConn(sock, onActivity)
	go c.read()
	return c
}

func newConn(sock net.Conn, onActivity func(Activity)) *Conn {
	return &Conn{
		sock: sock, onActivity: onActivity,
		warm: make(chan struct{}), loaded: make(chan struct{}),
		drained: make(chan struct{}), done: make(chan struct{}), heard: time.Now(),
	}
}

// SyscallConn is the socket, for whoever keeps a duplicate of it.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	sock, ok := c.sock.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("workerconn: %T has no descriptor", c.sock)
	}
	return sock.SyscallConn()
}

// Close ends the connection and waits until nothing of it runs.
func (c *Conn) Close() {
	c.fail(ErrClosed)
	<-c.done
}

// Done is closed when the connection has ended, for whatever reason.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it lives. io.EOF: the worker
// closed it, which it does when it exits.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Activity is the last report.
func (c *Conn) Activity() Activity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Heard is when the worker last said anything.
func (c *Conn) Heard() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard
}

// Ending is the worker's last word, or nil if it has said none. It is complete
// once Done is closed.
func (c *Conn) Ending() *Ending {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending
}

// WaitWarm returns when the worker has booted.
func (c *Conn) WaitWarm(ctx context.Context) error {
	return c.wait(ctx, c.warm, "boot")
}

// CompileCache is the name that a folder of V8's compiled code must have for the
// worker to find it: the very version of Node.js, V8 and its settings. The
// worker said it when it was warm, before any function ran in it; it may be
// anything all the same.
func (c *Conn) CompileCache() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cache
}

// Compile makes the worker write what V8 has compiled so far into the folder of
// the activation's CompileCache, where something writable must be mounted by then, and waits
// until it says that it has. Requests are answered meanwhile, later than else. One
// call at a time, at any time but while a function loads.
func (c *Conn) Compile(ctx context.Context) error {
	done := make(chan struct{})
	c.mu.Lock()
	switch {
	case c.err != nil:
		err := c.err
		c.mu.Unlock()
		return fmt.Errorf("workerconn: the connection has ended: %w", err)
	case c.compiled != nil || c.state < warm || c.state == activating || c.state == failed:
		state := c.state
		c.mu.Unlock()
		return fmt.Errorf("workerconn: Compile called in state %d, or twice", state)
	}
	c.compiled = done
	c.mu.Unlock()
	if err := c.send(compileMessage{Type: "compile"}); err != nil {
		return err
	}
	// After a context's end the answer may still come: until then there is no
	// other call.
	return c.wait(ctx, done, "write its compile cache")
}

// Activate makes a warm worker load a function and waits for the outcome: how
// long loading took by the worker's clock, or a *LoadError, or how the
// connection ended. It may be called once.
func (c *Conn) Activate(ctx context.Context, a Activation) (time.Duration, error) {
	if err := c.advance(warm, activating); err != nil {
		return 0, err
	}
	m := activateMessage{Type: "activate", Activation: a, LoadTimeoutMs: a.LoadTimeout.Milliseconds()}
	if err := c.send(m); err != nil {
		return 0, err
	}
	if err := c.wait(ctx, c.loaded, "load the function"); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed != nil {
		return 0, c.failed
	}
	return time.Duration(c.loadMs * float64(time.Millisecond)), nil
}

// Drain tells the worker to finish what runs within grace and waits until it
// has. It reports whether the function listens for SIGTERM; early says to
// TerminateEarly at once. It may be called once, after Activate succeeded.
func (c *Conn) Drain(ctx context.Context, grace time.Duration, early bool) (sigterm bool, err error) {
	if err := c.advance(ready, draining); err != nil {
		return false, err
	}
	if err := c.send(drainMessage{Type: "drain", GraceMs: grace.Milliseconds()}); err != nil {
		return false, err
	}
	if early {
		if err := c.TerminateEarly(); err != nil {
			return false, err
		}
	}
	if err := c.wait(ctx, c.drained, "drain"); err != nil {
		return false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sigterm, nil
}

// Terminate tells a worker that has drained to end as a program does that gets
// SIGTERM. That it ends is seen by its container. It may be called once.
func (c *Conn) Terminate() error {
	if err := c.advance(drained, terminating); err != nil {
		return err
	}
	return c.send(terminateMessage{Type: "terminate"})
}

// TerminateEarly is Terminate for a worker that still drains, if its function
// listens for SIGTERM; otherwise nothing happens.
func (c *Conn) TerminateEarly() error {
	return c.send(terminateMessage{Type: "terminate", Early: true})
}

// Server reports whether the function is a server that listens by itself. It is
// known once Activate has returned.
func (c *Conn) Server() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// Ping asks the worker for a sign of life, which Heard shows. It does not wait
// for it. Whoever calls it again before that fills the worker's socket in time.
func (c *Conn) Ping() error { return c.send(bareMessage{Type: "ping"}) }

// wait waits for one of the worker's answers.
func (c *Conn) wait(ctx context.Context, answer <-chan struct{}, what string) error {
	select {
	case <-answer:
		return nil
	case <-c.done:
		// Both may have come; the answer came first.
		select {
		case <-answer:
			return nil
		default:
			return fmt.Errorf("workerconn: the worker did not %s: %w", what, c.Err())
		}
	case <-ctx.Done():
		return fmt.Errorf("workerconn: wait for the worker to %s: %w", what, context.Cause(ctx))
	}
}

// advance moves the agent's half of the conversation on.
func (c *Conn) advance(from, to state) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return fmt.Errorf("workerconn: the connection has ended: %w", c.err)
	}
	if c.state != from {
		return fmt.Errorf("workerconn: called in state %d, allowed in %d only", c.state, from)
	}
	c.state = to
	return nil
}

func (c *Conn) send(m any) error {
	line, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("workerconn: %w", err)
	}
	if len(line)+1 > maxLine {
		return fmt.Errorf("workerconn: a message of %d bytes, more than %d: make the pod's environment smaller", len(line)+1, maxLine)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.sock.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("workerconn: %w", err)
	}
	if _, err := c.sock.Write(append(line, '\n')); err != nil {
		// Half a message may be out: there is no way to go on.
		err = fmt.Errorf("workerconn: write to the worker: %w", err)
		c.fail(err)
		return err
	}
	return nil
}

// fail ends the connection with its first error.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.sock.Close()
}

// read is the connection's goroutine.
func (c *Conn) read() {
	defer close(c.done)
	lines := bufio.NewScanner(c.sock)
	lines.Buffer(nil, maxLine)
	allowance := newAllowance(messagesBurst, messagesPerSecond)
	for lines.Scan() {
		if !allowance.take(time.Now()) {
			c.fail(fmt.Errorf("%w: more than %d messages a second", ErrProtocol, messagesPerSecond))
			return
		}
		m, err := parse(lines.Bytes())
		torn := c.torn
		c.torn = false
		if err != nil && torn {
			continue
		}
		if err == nil {
			err = c.receive(m)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
	err := lines.Err()
	switch {
	case errors.Is(err, bufio.ErrTooLong):
		err = fmt.Errorf("%w: a line of more than %d bytes", ErrProtocol, maxLine)
	case err == nil:
		err = io.EOF
	}
	c.fail(err)
}

// receive moves the worker's half of the conversation on.
func (c *Conn) receive(m message) error {
	c.mu.Lock()
	c.heard = time.Now()
	switch {
	case m.Type == "warm" && c.state == booting:
		c.state, c.cache = warm, m.CompileCache
		close(c.warm)
	case m.Type == "ready" && c.state == activating:
		c.state, c.loadMs, c.server = ready, m.LoadMs, m.Kind == kindServer
		close(c.loaded)
	case m.Type == "failed" && c.state == activating:
		c.state, c.failed = failed, m.loadError()
		close(c.loaded)
	case m.Type == "drained" && c.state == draining:
		c.state, c.sigterm = drained, m.SIGTERM
		close(c.drained)
	case m.Type == "compiled" && c.compiled != nil:
		close(c.compiled)
		c.compiled = nil
	case m.Type == "ending" && c.state >= ready && c.state != failed && c.ending == nil:
		c.ending = m.ending()
	case m.Type == "activity" && c.state >= warm: // strangers may connect before there is a lease
		c.last = m.activity()
		last := c.last
		c.mu.Unlock()
		if c.onActivity != nil {
			c.onActivity(last)
		}
		return nil
	case c.belated(m):
	default:
		state := c.state
		c.mu.Unlock()
		return fmt.Errorf("%w: message %.40q in state %d", ErrProtocol, m.Type, state)
	}
	c.mu.Unlock()
	return nil
}
