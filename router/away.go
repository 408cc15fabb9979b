package router

import (
	"context"
	"time"
)

// AwayPace paces the tries to reach a pod whose home agent is away, as during its
// update on the only node: at gateways, and at agents for the pods of others. The zero
// value is before the first pause. One request uses it.
type AwayPace struct{ last time.Duration }

const awayPauseFirst, awayPauseLast = 50 * time.Millisecond, 500 * time.Millisecond

// Pause waits before the next try, longer from one to the next. It reports false if
// ctx ends before.
func (p *AwayPace) Pause(ctx context.Context) bool {
	p.last = min(max(2*p.last, awayPauseFirst), awayPauseLast)
	timer := time.NewTimer(p.last)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
