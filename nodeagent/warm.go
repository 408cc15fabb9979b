package nodeagent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/inspector"
	"sanfran.dev/nodeagent/workerconn"
)

// warmContainer is a container with a booted worker and everything that
// belongs to it on this node. It is destroyed once, by whoever owns it.
type warmContainer struct {
	runtime   string
	container container.Container
	conn      *workerconn.Conn
	socket    Socket
	output    *output
	// inspector connects to where Node.js opens its inspector.
	inspector inspector.Dial
	// namespace is the network namespace's file; empty: it has none of ours.
	namespace string
	// closeNamespace gives it back; nil: there is none.
	closeNamespace func() error
	// ahead is a connection to its listening socket that its first request will go
	// over; nil: there is none. It is its owner's, once it is leased.
	ahead net.Conn
	// booted is the processor time that it had used when it was warm.
	booted time.Duration
	// kept tells the supervisor of the container; nil: it ends with this process.
	kept *keptContainer
	// onActivity is called for the worker's reports; nil until it is leased.
	onActivity atomic.Pointer[func(workerconn.Activity)]
	// guards are goroutines that wait for its end.
	guards sync.WaitGroup
}

// starter makes warm containers.
type starter struct {
	runtime   container.Runtime
	sockets   func(context.Context) (Socket, error)
	namespace func(ctx context.Context, id string) (path string, closeNamespace func() error, err error)
	// inspector connects to the inspector within a namespace's path.
	inspector func(ctx context.Context, path string) (net.Conn, error)
	// connect opens the connection that a container's first request goes over; nil:
	// none is opened ahead.
	connect func(ctx context.Context, address string) (net.Conn, error)
	// rootFS is the root filesystem of each runtime by name.
	rootFS map[string]string
	// args is the worker's program and its arguments.
	args []string
	// bootTimeout bounds the time from start to warm.
	bootTimeout time.Duration
	keep        *keeper
	log         *slog.Logger
}

// Start makes one container and waits until its worker is warm. After an error
// nothing of it is left.
func (s *starter) Start(ctx context.Context, runtime string) (_ *warmContainer, err error) {
	root, ok := s.rootFS[runtime]
	if !ok {
		return nil, &failure{reason: ReasonRuntimeUnknown, message: fmt.Sprintf("this node has no runtime %q", runtime)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.bootTimeout, fmt.Errorf("the worker was not warm within %v", s.bootTimeout))
	defer cancel()
	id := "sf-" + strings.ToLower(rand.Text()[:16])
	w := &warmContainer{runtime: runtime}
	var undo []func() error
	defer func() {
		if err == nil {
			return
		}
		err = fmt.Errorf("start a container of %s: %w", runtime, err)
		for i := len(undo) - 1; i >= 0; i-- {
			err = errors.Join(err, undo[i]())
		}
	}()

	if w.socket, err = s.sockets(ctx); err != nil {
		return nil, err
	}
	undo = append(undo, w.socket.Release)
	failpoint.Here("start: socket opened")
	path, closeNamespace, err := s.namespace(ctx, id)
	if err != nil {
		return nil, err
	}
	w.namespace, w.closeNamespace = path, closeNamespace
	w.inspector = func(ctx context.Context) (net.Conn, error) { return s.inspector(ctx, path) }
	undo = append(undo, closeNamespace)
	failpoint.Here("start: network made")
	conn, control, err := workerconn.Pair(w.activity)
	if err != nil {
		return nil, err
	}
	w.conn = conn
	undo = append(undo, func() error { conn.Close(); return nil })
	defer control.Close()
	if w.output, err = newOutput(id, s.log); err != nil {
		return nil, err
	}
	undo = append(undo, w.output.close)
	w.container, err = s.runtime.Start(ctx, container.Config{
		ID: id, RootFS: root, NetNS: path, Hostname: "sanfran",
		Listener: w.socket.File(), Control: control,
		Log: w.output.frames.write, Stdout: w.output.stdout.write, Stderr: w.output.stderr.write,
		Args: s.args, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "NODE_ENV=production"},
	})
	if err != nil {
		return nil, err
	}
	// The peer's end must have no copy here, or the end of the worker would
	// not be the end of the connection.
	control.Close()
	w.output.started()
	failpoint.Here("start: container started")
	undo = append(undo, func() error { return w.container.Destroy(context.WithoutCancel(ctx)) })
	if err := failpoint.After("start: warm", conn.WaitWarm(ctx)); err != nil {
		if words := lastWords(w.output.last()); words != "" {
			err = fmt.Errorf("%w; %s", err, words)
		}
		return nil, err
	}
	// The worker takes the connection in while nobody waits for it. Without one the
	// first request opens its own.
	if s.connect != nil {
		if w.ahead, err = s.connect(ctx, w.socket.Addr().String()); err != nil {
			s.log.Warn("no connection to a warm container", "container", id, "err", err)
		}
	}
	// What it took to boot is the pool's doing, not that of the pod to come. A
	// container whose use cannot be read works all the same.
	if used, err := w.container.Usage(ctx); err == nil {
		w.booted = used.CPU
	}
	w.kept = s.keep.container(w)
	return w, nil
}

// lastWords is the end of a container's output, as a clause; empty if there is none.
func lastWords(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	return fmt.Sprintf("its last output: %.1000q", strings.Join(lines[max(0, len(lines)-5):], "\n"))
}

// activity passes the worker's reports on to whoever leases the container.
func (w *warmContainer) activity(a workerconn.Activity) {
	if f := w.onActivity.Load(); f != nil {
		(*f)(a)
	}
}

// Alive reports whether the container can still be leased.
func (w *warmContainer) Alive() bool {
	select {
	case <-w.container.Exited():
		return false
	case <-w.conn.Done():
		return false
	default:
		return true
	}
}

// closeAhead closes the connection that no request has been given.
func (w *warmContainer) closeAhead() {
	if w.ahead != nil {
		_ = w.ahead.Close()
		w.ahead = nil
	}
}

// Destroy ends a container that was never leased; its port is free at once,
// because no route ever led to it.
func (w *warmContainer) Destroy(ctx context.Context) error {
	err := w.destroy(ctx)
	if err == nil {
		w.kept.forget()
	}
	return errors.Join(err, w.socket.Release())
}

// destroy removes everything but the socket.
func (w *warmContainer) destroy(ctx context.Context) error {
	w.closeAhead()
	err := w.container.Destroy(ctx)
	w.conn.Close()
	w.guards.Wait()
	err = errors.Join(err, w.output.close())
	if w.closeNamespace != nil {
		err = errors.Join(err, w.closeNamespace())
	}
	return err
}
