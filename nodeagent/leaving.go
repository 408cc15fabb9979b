package nodeagent

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// leaving is the agent's part in handing its pods over to others before it ends:
// it tells the control plane, and goes on serving each pod until it is withdrawn.
// It is safe for concurrent use.
type leaving struct {
	once sync.Once
	// begun is closed when the control plane is to be told, farewell when it has
	// said that nobody takes more.
	begun, farewell chan struct{}
}

func newLeaving() *leaving {
	return &leaving{begun: make(chan struct{}), farewell: make(chan struct{})}
}

// dismissed notes the control plane's farewell.
func (l *leaving) dismissed() { l.once.Do(func() { close(l.farewell) }) }

// handOver gives the agent's pods to others as far as they take them, and reports
// whether the control plane keeps the rest for this node's next agent. The agent
// serves as before meanwhile, so it also waits for a control plane that is away,
// as in an update of both: without one, pods that are lost here are nowhere.
func (a *Agent) handOver() (kept bool) {
	begun := time.Now()
	close(a.leaving.begun)
	ctx, cancel := context.WithTimeoutCause(a.ctx, a.cfg.HandoverGrace, fmt.Errorf("not all pods were handed over within %v", a.cfg.HandoverGrace))
	defer cancel()
	select {
	case <-a.leaving.farewell:
		a.log.Info("pods were handed over", "left", len(a.pods.all()), "took", time.Since(begun))
		return true
	case <-ctx.Done():
		a.log.Warn("the agent goes with its pods", "left", len(a.pods.all()), "err", context.Cause(ctx))
		return false
	}
}
