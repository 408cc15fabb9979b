package router

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// functionState is what a router remembers of a function beyond its routes. It lives
// as long as the function has pods.
type functionState struct {
	bucket bucket
	queue  queue
}

// queue is where the requests of one function wait: those that were sent to the home
// agent of a parked pod and have no answer yet, and those that wait in line here
// because every instance has as many requests as it is given. The first are the
// agent's to serve, and one activation serves them all.
//
// Those in line take turns strictly: only the one in front tries. Whatever may have
// made room signals the front, and whoever leaves the line signals the next, so that
// a signal is never lost, not even on one who gives up. It is safe for concurrent
// use.
type queue struct {
	// waiting are all of them, bounded by the policy's queue length.
	waiting atomic.Int64
	// inLine is len(line), to be read without the lock.
	inLine atomic.Int64

	mu   sync.Mutex
	line []*turn
}

// turn is one request's place in the line.
type turn struct {
	// front receives when it may be worth trying.
	front chan struct{}
}

// enter joins the line at its end.
func (q *queue) enter() *turn {
	t := &turn{front: make(chan struct{}, 1)}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.line = append(q.line, t)
	q.inLine.Store(int64(len(q.line)))
	if len(q.line) == 1 {
		wake(t.front)
	}
	return t
}

// leave takes a turn out of the line.
func (q *queue) leave(t *turn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.line, t); i >= 0 {
		q.line = slices.Delete(q.line, i, i+1)
		q.inLine.Store(int64(len(q.line)))
	}
	q.signalFront()
}

// roomMade says that the front of the line may have its turn. It costs a load when
// nobody is in line.
func (q *queue) roomMade() {
	if q.inLine.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.signalFront()
}

// signalFront needs the lock, which it does not wait under.
func (q *queue) signalFront() {
	if len(q.line) > 0 {
		wake(q.line[0].front)
	}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// waitBytes is what a waiting request takes of a gateway's memory beside its headers
// and body: the client's connection with its buffers, the agent's, and three goroutines.
const waitBytes = 24 << 10

// place is a request's share of the bounds on waiting. The zero place is none.
type place struct {
	queue *queue
	held  *atomic.Int64
	bytes int64
	told  *functionMetrics
}

// take counts a request that is about to wait, unless it has a place already. It
// reports false if too many wait, or all of them would take too much memory.
func (p *place) take(q *queue, length int64, held *atomic.Int64, memory, bytes int64, told *functionMetrics) bool {
	if p.queue != nil {
		return true
	}
	if q.waiting.Add(1) > length {
		q.waiting.Add(-1)
		return false
	}
	if held.Add(bytes) > memory {
		held.Add(-bytes)
		q.waiting.Add(-1)
		return false
	}
	told.beginWait()
	*p = place{q, held, bytes, told}
	return true
}

// leave gives the share back; it may be called again.
func (p *place) leave() {
	if p.queue != nil {
		p.queue.waiting.Add(-1)
		p.held.Add(-p.bytes)
		p.told.endWait()
		*p = place{}
	}
}

// awaitTurn waits in line until try says that it is done. It reports false if that
// is not within the time, or the client has gone, whose error ctx has then.
func (q *queue) awaitTurn(ctx context.Context, within time.Duration, try func() bool) bool {
	t := q.enter()
	defer q.leave(t)
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		select {
		case <-t.front:
			if try() {
				return true
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
