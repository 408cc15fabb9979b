package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// errNoControlPlane: there is nobody to hand pods over to others.
var errNoControlPlane = errors.New("there is no stream to the control plane")

// leaving is the agent's part in handing its pods over to others before it ends:
// it tells the control plane, and goes on serving each pod until it is withdrawn.
// It is safe for concurrent use.
type leaving struct {
	once sync.Once
	// begun is closed when the control plane is to be told, farewell when it has
	// said that nobody takes more.
	begun, farewell chan struct{}

	mu sync.Mutex
	// session is closed when the stream ends on which the control plane has
	// spoken; nil while there is none.
	session chan struct{}
}

func newLeaving() *leaving {
	return &leaving{begun: make(chan struct{}), farewell: make(chan struct{})}
}

// connected notes that the control plane speaks, disconnected that it does not any
// more.
func (l *leaving) connected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.session = make(chan struct{})
}

func (l *leaving) disconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.session != nil {
		close(l.session)
		l.session = nil
	}
}

// dismissed notes the control plane's farewell.
func (l *leaving) dismissed() { l.once.Do(func() { close(l.farewell) }) }

// wait begins to leave and returns once the control plane has said farewell. It
// fails when the time is over, and at once when there is no stream: then the
// control plane gives the pods away when it notices, and not before.
func (l *leaving) wait(ctx context.Context) error {
	l.mu.Lock()
	session := l.session
	l.mu.Unlock()
	close(l.begun)
	if session == nil {
		return errNoControlPlane
	}
	select {
	case <-l.farewell:
		return nil
	case <-session:
		return fmt.Errorf("%w any more", errNoControlPlane)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// handOver gives the agent's pods to others as far as they take them, and reports
// whether the control plane keeps the rest for this node's next agent. The agent
// serves as before meanwhile.
func (a *Agent) handOver() (kept bool) {
	begun := time.Now()
	ctx, cancel := context.WithTimeoutCause(a.ctx, a.cfg.HandoverGrace, fmt.Errorf("not all pods were handed over within %v", a.cfg.HandoverGrace))
	defer cancel()
	err := a.leaving.wait(ctx)
	a.log.Info("pods were handed over", "left", len(a.pods.all()), "took", time.Since(begun), "err", err)
	return err == nil
}
