// Package pool keeps warm items ready for those who need one at once. An item
// is, in the agent, a container with its listening socket and the connection
// to its worker; the pool knows nothing about that.
//
// A pool has slots. A slot is filled by starting an item (Warming), holds it
// (Warm), until somebody takes it (Leased). The taker owns the item from then
// on: it never comes back to the pool. The owner destroys it (Draining) and
// says so (gone); meanwhile the pool has long begun to fill the slot again,
// with a new item.
//
//	item, err := p.Acquire(ctx)
//	…                 // use it
//	p.Drain(item)     // optional, shows in Stats
//	item.Destroy(…)   // the owner's to do
//	p.Done(item)
//
// slots.go has all the decisions; this file does what they ask for.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"
)

// ErrClosed is returned by Acquire once Close has begun.
var ErrClosed = errors.New("pool is closed")

// Starter makes an item, ready to be leased. It heeds ctx and leaves nothing
// behind when it fails. The pool calls it in several goroutines at once.
type Starter[T any] func(ctx context.Context) (T, error)

// Config says how a pool works. Start and Destroy are required.
type Config[T comparable] struct {
	// Target is how many items to keep warm. 0 starts items on demand only.
	Target int
	// MaxParallel bounds the starts that run at once, on demand or not; 0 for as
	// many as there are processors: a start computes more than it waits.
	MaxParallel int
	// Start makes an item.
	Start Starter[T]
	// Destroy ends an item that the pool owns: one that died, is too much, or
	// is there when the pool closes. Its error is logged; it should not fail.
	Destroy func(ctx context.Context, item T) error
	// Alive says whether an item can still serve; nil means always. It is
	// called under the pool's lock: it must be quick and not call the pool.
	// An item must not be alive any more when Lost is called for it; so none
	// that dies while it is on the way into the pool, or out of it, is missed.
	Alive func(item T) bool
	// Rest is how long after a lease no start begins that nobody waits for: a
	// start takes as much of the processors as it can get, and whoever has just
	// leased an item wants them too. Leases meanwhile do not lengthen it.
	Rest time.Duration
	// StartTimeout bounds each start; 0 for 30 seconds.
	StartTimeout time.Duration
	// MinBackoff is the pause after a start has failed; it doubles with every
	// further failure, up to MaxBackoff. 0 for 100 ms and 10 s.
	MinBackoff, MaxBackoff time.Duration
	// Logger gets what no caller can be told; nil for slog.Default().
	Logger *slog.Logger
}

// Pool keeps items warm. All its methods are safe for concurrent use.
type Pool[T comparable] struct {
	cfg  Config[T]
	ctx  context.Context // ends when Close begins; the starts' parent
	stop context.CancelFunc
	work sync.WaitGroup // starts, destroys and waiters; none begins once the pool is closed

	mu    sync.Mutex
	slots *slots[T]
	retry *time.Timer // at the end of back-off or of a rest, nil if none is due
}

// Stats is the state of a pool at one moment.
type Stats struct {
	Target                          int
	Warming, Warm, Leased, Draining int
	Waiting                         int    // calls of Acquire
	Started, Failed                 uint64 // starts, since the beginning
	Lost                            uint64 // items that died before anybody took them
	// Failures is how many starts failed since one succeeded; RetryAt is when
	// the next may begin.
	Failures int
	RetryAt  time.Time
	// LastFailure is the last start's error ever, nil if none has failed.
	LastFailure   error
	LastFailureAt time.Time
}

// New makes a pool and begins to fill it. Close ends it.
func New[T comparable](cfg Config[T]) (*Pool[T], error) {
	if cfg.Start == nil || cfg.Destroy == nil {
		return nil, errors.New("pool: Start and Destroy must be set")
	}
	if cfg.Target < 0 || cfg.MaxParallel < 0 {
		return nil, fmt.Errorf("pool: target %d and parallelism %d may not be negative", cfg.Target, cfg.MaxParallel)
	}
	if cfg.MaxParallel == 0 {
		cfg.MaxParallel = runtime.GOMAXPROCS(0)
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 30 * time.Second
	}
	if cfg.MinBackoff == 0 {
		cfg.MinBackoff = 100 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 10 * time.Second
	}
	if cfg.Alive == nil {
		cfg.Alive = func(T) bool { return true }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	p := &Pool[T]{cfg: cfg, slots: newSlots[T](cfg.Target, cfg.MaxParallel, cfg.MinBackoff, cfg.MaxBackoff, cfg.Rest)}
	p.ctx, p.stop = context.WithCancel(context.Background()) //nolint:gosec // G118: Close calls it
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill()
	return p, nil
}

// Acquire leases a warm item to the caller. If there is none it waits, behind
// those who came before, for one to be started. Failing starts are tried again
// until ctx ends; the error then wraps both ctx's cause and the last start's.
func (p *Pool[T]) Acquire(ctx context.Context) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("acquire from the pool: %w", err)
	}
	p.mu.Lock()
	if p.slots.closed {
		p.mu.Unlock()
		return none, ErrClosed
	}
	item, w, dead := p.slots.acquire(time.Now(), p.cfg.Alive)
	for _, d := range dead {
		p.destroy(d)
	}
	p.fill()
	if w != nil {
		p.work.Add(1) // Close waits for what may come back from here
		defer p.work.Done()
	}
	p.mu.Unlock()
	if w == nil {
		return item, nil
	}
	select {
	case item, ok := <-w.item:
		if !ok {
			return none, ErrClosed
		}
		return item, nil
	case <-ctx.Done():
	}

	p.mu.Lock()
	left := p.slots.leave(w)
	lastErr := p.slots.lastErr
	if p.slots.failures == 0 {
		lastErr = nil
	}
	p.mu.Unlock()
	if !left {
		if item, ok := <-w.item; ok { // it arrives at once: nobody else takes it
			p.giveBack(item)
		}
	}
	err := fmt.Errorf("acquire from the pool: %w", context.Cause(ctx))
	if lastErr != nil {
		err = fmt.Errorf("%w; the last start failed: %w", err, lastErr)
	}
	return none, err
}

// Drain says that the owner of a leased item has begun to destroy it. It is
// optional and shows in Stats only.
func (p *Pool[T]) Drain(item T) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots.drain(item)
}

// Done says that a leased item has been destroyed by its owner. Every item
// that Acquire has returned needs it, once.
func (p *Pool[T]) Done(item T) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots.done(item)
}

// Adopt takes in an item that an earlier pool has started: one that is leased, and
// stays its owner's, or a warm one. The target grows to what is adopted. It comes
// before the first Acquire.
func (p *Pool[T]) Adopt(item T, leased bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots.adopt(item, leased)
}

// Lost says that an item has died by itself. If it was warm the pool destroys
// and replaces it; if it is leased that is its owner's to do. It may be called
// at any time, also before the item's start has returned, and for an item that
// is long gone; see Config.Alive.
func (p *Pool[T]) Lost(item T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots.die(item) {
		p.destroy(item)
		p.fill()
	}
}

// SetTarget changes how many items to keep warm. Too many are destroyed.
func (p *Pool[T]) SetTarget(n int) error {
	if n < 0 {
		return fmt.Errorf("pool: target %d may not be negative", n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slots.closed {
		return ErrClosed
	}
	for _, item := range p.slots.setTarget(n) {
		p.destroy(item)
	}
	p.fill()
	return nil
}

// Stats returns the state of the pool now.
func (p *Pool[T]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots
	stats := Stats{
		Target: s.target, Warming: s.warming, Warm: len(s.ready), Waiting: len(s.waiters),
		Started: s.started, Failed: s.failed, Lost: s.lost,
		Failures: s.failures, RetryAt: s.retryAt, LastFailure: s.lastErr, LastFailureAt: s.lastAt,
	}
	for _, st := range s.owned {
		switch st {
		case leased:
			stats.Leased++
		case draining:
			stats.Draining++
		}
	}
	return stats
}

// Close turns waiters away, cancels starts, destroys what the pool owns, and
// returns when all of that is done. Leased items stay their owners', who may
// still call Done. ctx bounds the waiting; after its error the work goes on.
func (p *Pool[T]) Close(ctx context.Context) error {
	p.mu.Lock()
	if !p.slots.closed {
		surplus, turnedAway := p.slots.close()
		for _, item := range surplus {
			p.destroy(item)
		}
		for _, w := range turnedAway {
			close(w.item)
		}
		if p.retry != nil {
			p.retry.Stop()
			p.retry = nil
		}
		p.stop()
	}
	p.mu.Unlock()

	finished := make(chan struct{})
	go func() {
		p.work.Wait()
		close(finished)
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		s := p.Stats()
		return fmt.Errorf("close the pool: %d starting and %d being destroyed are not finished: %w", s.Warming, s.Draining, ctx.Err())
	}
}

// fill begins the starts that are due. The caller holds mu.
func (p *Pool[T]) fill() {
	n, wait := p.slots.starts(time.Now())
	for range n {
		p.work.Go(p.start)
	}
	if wait > 0 && p.retry == nil {
		p.retry = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.retry = nil
			p.fill()
		})
	}
}

// start makes one item and finds its place.
func (p *Pool[T]) start() {
	ctx, cancel := context.WithTimeout(p.ctx, p.cfg.StartTimeout)
	defer cancel()
	item, err := p.cfg.Start(ctx)

	p.mu.Lock()
	if err != nil {
		p.slots.startFailed(time.Now(), err)
		failures, closed := p.slots.failures, p.slots.closed
		p.fill()
		p.mu.Unlock()
		if !closed {
			p.cfg.Logger.Error("an item for the pool cannot be started", "failures", failures, "error", err)
		}
		return
	}
	to, surplus := p.slots.startDone(item, p.cfg.Alive(item))
	p.place(item, to, surplus)
}

func (p *Pool[T]) giveBack(item T) {
	p.mu.Lock()
	to, surplus := p.slots.giveBack(item, p.cfg.Alive(item))
	p.place(item, to, surplus)
}

// place does what slots decided for an item. The caller holds mu, which it
// releases: nothing is sent under it.
func (p *Pool[T]) place(item T, to *waiter[T], surplus bool) {
	if surplus {
		p.destroy(item)
	}
	p.fill()
	p.mu.Unlock()
	if to != nil {
		to.item <- item // buffered, and sent to once
	}
}

// destroy ends an item that is Draining. The caller holds mu.
func (p *Pool[T]) destroy(item T) {
	p.work.Go(func() {
		// Close cancels starts, but what exists is always destroyed.
		if err := p.cfg.Destroy(context.WithoutCancel(p.ctx), item); err != nil {
			p.cfg.Logger.Error("an item of the pool cannot be destroyed", "error", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = p.slots.done(item) // it is Draining: done cannot fail
	})
}
