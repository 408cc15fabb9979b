package nodeagent

import (
	"context"
	"time"
)

// reconcileInterval is how often the agent looks whether what it has set up on its
// node is still there: a restart of the node's firewall takes all rules away. A
// look is a few questions to the kernel, about SanFran's own things alone.
const reconcileInterval = 2 * time.Second

// reconciler puts back what somebody else has taken away, and says what it was.
type reconciler interface {
	Reconcile(ctx context.Context) (mended []string, err error)
}

// keepNode looks after what the agent has set up, until ctx ends. Rules come first:
// what they confine is there all the time.
func (a *Agent) keepNode(ctx context.Context, parts []reconciler) {
	ticks := time.NewTicker(reconcileInterval)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
		}
		for _, part := range parts {
			mended, err := part.Reconcile(ctx)
			for _, what := range mended {
				a.metrics.mended.Inc()
				a.log.Warn("somebody took away what the agent has set up on the node; it is back", "what", what)
			}
			if err != nil && ctx.Err() == nil {
				a.log.Error("what the agent has set up on the node", "err", err)
			}
		}
	}
}
