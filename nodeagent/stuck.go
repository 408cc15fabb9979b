package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"syscall"
	"time"

	"sanfran.dev/nodeagent/inspector"
)

const (
	// whereTimeout bounds how long a stuck function is asked where it is. It
	// mostly takes a tenth of a second.
	whereTimeout = 1500 * time.Millisecond
	// inspectorPause is how long to wait before looking again whether Node.js
	// has opened its inspector, which nothing tells.
	inspectorPause = 10 * time.Millisecond
	// whereMilliCPU is what a container may use meanwhile: its function uses up
	// whatever it has, and the inspector needs a tenth of a second.
	whereMilliCPU = 1000
	// asksAtOnce is how many are asked at the same time: each may have the agent
	// read some megabytes.
	asksAtOnce = 2
)

// endStuck ends the container of a function that does not let its event loop run,
// after it has asked where the function is: the failure tells it, and the log,
// as the last of all. Where that cannot be known the failure is as it was.
func (p *pod) endStuck(w *warmContainer, startedAt time.Time, f *failure) *failure {
	ctx, cancel := context.WithTimeoutCause(p.agent.ctx, whereTimeout, fmt.Errorf("no answer within %v", whereTimeout))
	defer cancel()
	stack, forget, err := p.where(ctx, w)
	if err != nil {
		p.agent.log.Info("where a stuck function is, is not known", "pod", p.spec.PodUID, "name", p.spec.PodName, "container", w.container.ID(), "err", err)
	}
	// It is dead before it is let go: it shall not go on.
	if err := w.container.Signal(context.WithoutCancel(ctx), syscall.SIGKILL); err == nil {
		select {
		case <-w.container.Exited():
		case <-time.After(exitGrace):
		}
	}
	if err == nil {
		forget()
	}
	if len(stack) > 0 {
		if place := stack.Place(p.spec.Entry); place != "" {
			f.message += " (" + place + ")"
		}
		w.output.conclude(f.reason + ": " + f.message + "\n" + stack.String() + "\n")
		f.message += "\n" + firstLines(stack.String(), 5)
	}
	return f.ended(killed, startedAt, time.Now())
}

// where halts the function and returns the calls that it is in, without those of
// the worker's code. If there is no error it stays halted until forget is called.
func (p *pod) where(ctx context.Context, w *warmContainer) (_ inspector.Stack, forget func(), err error) {
	select {
	case p.agent.asking <- struct{}{}:
		defer func() { <-p.agent.asking }()
	case <-ctx.Done():
		return nil, nil, errors.New("too many are asked at once")
	}
	limits := p.agent.cfg.limits(p.spec.Resources)
	limits.MilliCPU = max(limits.MilliCPU, whereMilliCPU)
	if err := w.container.SetResources(ctx, limits); err != nil {
		p.agent.log.Info("a stuck function's container gets no more of the processor", "container", w.container.ID(), "err", err)
	}
	w.output.hide(inspectorWords...)
	args := p.agent.cfg.WorkerArgs
	return inspector.Where(ctx, w.openInspector, path.Dir(args[len(args)-1]))
}

// inspectorWords are what Node.js writes on the standard error of a process that
// is being debugged.
var inspectorWords = []string{
	"Debugger attached.\n",
	fmt.Sprintf("Starting inspector on 127.0.0.1:%d failed: address already in use\n", inspector.Port),
}

// openInspector connects to the container's inspector, and has Node.js open it if
// it is not. A function that listens for SIGUSR1, which does that, only does not
// get to it: it is stuck.
func (w *warmContainer) openInspector(ctx context.Context) (net.Conn, error) {
	for signalled := false; ; signalled = true {
		conn, err := w.inspector(ctx)
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return conn, err
		}
		if !signalled {
			if err := w.container.Signal(ctx, syscall.SIGUSR1); err != nil {
				return nil, err
			}
		}
		select {
		case <-time.After(inspectorPause):
		case <-w.container.Exited():
			return nil, errors.New("the container has ended")
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}
