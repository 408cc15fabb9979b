package pool_test

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sanfran.dev/nodeagent/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// item is what the tests pool.
type item struct {
	id        int
	dead      atomic.Bool
	destroyed atomic.Int32
}

// factory makes items; a start takes a second.
type factory struct {
	mu       sync.Mutex
	made     []*item
	running  int
	parallel int // most at once
	fail     error
}

const startTime = time.Second

func (f *factory) start(ctx context.Context) (*item, error) {
	f.mu.Lock()
	f.running++
	f.parallel = max(f.parallel, f.running)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.running--
		f.mu.Unlock()
	}()
	select {
	case <-time.After(startTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, f.fail
	}
	it := &item{id: len(f.made)}
	f.made = append(f.made, it)
	return it, nil
}

func (f *factory) all() []*item {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.made)
}

func (f *factory) setFail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func destroy(_ context.Context, it *item) error {
	it.dead.Store(true)
	it.destroyed.Add(1)
	return nil
}

// inPool runs a test in a bubble of its own, with a pool that is closed at
// the end and has then destroyed all that was not leased.
func inPool(t *testing.T, target, parallel int, test func(t *testing.T, f *factory, p *pool.Pool[*item])) {
	t.Helper()
	inPoolWith(t, target, parallel, 0, test)
}

func inPoolWith(t *testing.T, target, parallel int, rest time.Duration, test func(t *testing.T, f *factory, p *pool.Pool[*item])) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &factory{}
		p, err := pool.New(pool.Config[*item]{
			Target: target, MaxParallel: parallel, Rest: rest, Start: f.start, Destroy: destroy,
			Alive:  func(it *item) bool { return !it.dead.Load() },
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		test(t, f, p)
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := p.Acquire(t.Context()); !errors.Is(err, pool.ErrClosed) {
			t.Errorf("Acquire after Close: %v", err)
		}
		leased := p.Stats().Leased
		for _, it := range f.all() {
			switch n := it.destroyed.Load(); {
			case n == 0:
				leased--
			case n > 1:
				t.Errorf("item %d was destroyed %d times", it.id, n)
			}
		}
		if leased != 0 {
			t.Errorf("%d more items are leased than were not destroyed", leased)
		}
	})
}

func acquire(t *testing.T, p *pool.Pool[*item]) *item {
	t.Helper()
	it, err := p.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return it
}

func release(t *testing.T, p *pool.Pool[*item], it *item) {
	t.Helper()
	if err := p.Drain(it); err != nil {
		t.Error(err)
	}
	_ = destroy(t.Context(), it)
	if err := p.Done(it); err != nil {
		t.Error(err)
	}
}

func TestFillsToTargetWithBoundedParallelism(t *testing.T) {
	inPool(t, 5, 2, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(3 * startTime)
		synctest.Wait()
		if s := p.Stats(); s.Warm != 5 || s.Warming != 0 || s.Started != 5 {
			t.Errorf("Stats = %+v", s)
		}
		if f.parallel != 2 {
			t.Errorf("%d starts ran at once, want 2", f.parallel)
		}
	})
}

func TestRefillsAtOnce(t *testing.T) {
	inPool(t, 2, 2, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(startTime)
		synctest.Wait()
		began := time.Now()
		it := acquire(t, p)
		if time.Since(began) != 0 {
			t.Errorf("a warm item took %v", time.Since(began))
		}
		if s := p.Stats(); s.Warm != 1 || s.Warming != 1 || s.Leased != 1 {
			t.Errorf("Stats while refilling = %+v", s)
		}
		time.Sleep(startTime)
		synctest.Wait()
		if s := p.Stats(); s.Warm != 2 || s.Leased != 1 {
			t.Errorf("Stats after refilling = %+v", s)
		}
		release(t, p, it)
		if err := p.Done(it); err == nil {
			t.Error("a second Done succeeded")
		}
		if s := p.Stats(); s.Leased != 0 || s.Draining != 0 {
			t.Errorf("Stats after Done = %+v", s)
		}
	})
}

// Whoever has leased an item has the processors to itself for a while, however many
// lease meanwhile, but nobody waits for an item because of that.
func TestNothingIsStartedWhileALeaseRests(t *testing.T) {
	const rest = startTime / 10
	inPoolWith(t, 3, 1, rest, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(3 * startTime)
		synctest.Wait()
		first := acquire(t, p)
		time.Sleep(rest - 1)
		second := acquire(t, p)
		synctest.Wait()
		if s := p.Stats(); s.Warm != 1 || s.Warming != 0 {
			t.Errorf("Stats within the rest = %+v", s)
		}
		time.Sleep(1)
		synctest.Wait()
		if s := p.Stats(); s.Warming != 1 {
			t.Errorf("Stats after the rest = %+v", s)
		}
		time.Sleep(3 * startTime)
		synctest.Wait()
		items := []*item{first, second, acquire(t, p), acquire(t, p), acquire(t, p)}
		began := time.Now()
		items = append(items, acquire(t, p)) // there is none
		if took := time.Since(began); took != startTime {
			t.Errorf("an item that somebody waited for came after %v, want %v", took, startTime)
		}
		for _, it := range items {
			release(t, p, it)
		}
	})
}

// A burst of 20 on a pool of 3: all are served, first come first served, and
// no more was started than was needed.
func TestBurstIsServedInOrder(t *testing.T) {
	inPool(t, 3, 2, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(2 * startTime)
		synctest.Wait()
		var order []int
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				it := acquire(t, p)
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				release(t, p, it)
			})
			synctest.Wait() // so that they come in this order
		}
		all.Wait()
		for i := range order {
			// Two starts end at the same moment; who of their two takers
			// writes first is open.
			if d := order[i] - i; d < -1 || d > 1 {
				t.Fatalf("served in the order %v", order)
			}
		}
		time.Sleep(5 * startTime)
		synctest.Wait()
		if s := p.Stats(); s.Started != 23 || s.Warm != 3 || f.parallel != 2 {
			t.Errorf("Stats = %+v, %d at once", s, f.parallel)
		}
	})
}

func TestStormOfCancelledWaiters(t *testing.T) {
	inPool(t, 2, 3, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		var all sync.WaitGroup
		var got, cancelled atomic.Int32
		random := rand.New(rand.NewPCG(1, 2))
		for range 500 {
			patience := time.Duration(random.Int64N(int64(4 * startTime)))
			if random.IntN(2) == 0 { // at the very moment that starts end
				patience = patience.Truncate(startTime)
			}
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				it, err := p.Acquire(ctx)
				if err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("Acquire: %v", err)
					}
					cancelled.Add(1)
					return
				}
				if it.dead.Load() {
					t.Error("got a dead item")
				}
				got.Add(1)
				release(t, p, it)
			})
		}
		all.Wait()
		time.Sleep(5 * startTime)
		synctest.Wait()
		if s := p.Stats(); s.Warm != 2 || s.Waiting != 0 || s.Leased != 0 || s.Draining != 0 || s.Warming != 0 {
			t.Errorf("Stats = %+v", s)
		}
		if got.Load() == 0 || cancelled.Load() == 0 {
			t.Errorf("%d served, %d cancelled: no storm", got.Load(), cancelled.Load())
		}
	})
}

func TestStartsOnDemandWithoutATarget(t *testing.T) {
	inPool(t, 0, 1, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(startTime)
		release(t, p, acquire(t, p))
		if s := p.Stats(); s.Started != 1 || s.Warm != 0 {
			t.Errorf("Stats = %+v", s)
		}
	})
}

func TestFailingStartsBackOffAndAreVisible(t *testing.T) {
	inPool(t, 2, 2, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		broken := errors.New("no rootfs")
		f.setFail(broken)
		time.Sleep(60 * startTime)
		synctest.Wait()
		s := p.Stats()
		if s.Failed < 5 || s.Failed > 15 || !errors.Is(s.LastFailure, broken) || s.RetryAt.IsZero() || s.Failures != int(s.Failed) {
			t.Errorf("Stats after a minute of failures = %+v", s)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := p.Acquire(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, broken) {
			t.Errorf("Acquire meanwhile: %v", err)
		}
		f.setFail(nil)
		it := acquire(t, p) // waits until the next try
		release(t, p, it)
		time.Sleep(3 * startTime)
		synctest.Wait()
		if s := p.Stats(); s.Warm != 2 || s.Failures != 0 || !s.RetryAt.IsZero() || s.LastFailure == nil {
			t.Errorf("Stats after recovery = %+v", s)
		}
	})
}

func TestLostItemsAreReplaced(t *testing.T) {
	inPool(t, 2, 2, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(startTime)
		synctest.Wait()
		first := f.all()
		for _, it := range first {
			it.dead.Store(true)
		}
		p.Lost(first[0])    // told
		it := acquire(t, p) // the other one is dead as well, found out here
		if it.dead.Load() {
			t.Errorf("got the dead item %d", it.id)
		}
		it.dead.Store(true)
		p.Lost(it) // its owner's to destroy
		release(t, p, it)
		p.Lost(it) // long gone
		time.Sleep(2 * startTime)
		synctest.Wait()
		if s := p.Stats(); s.Warm != 2 || s.Lost != 2 || s.Draining != 0 {
			t.Errorf("Stats = %+v", s)
		}
	})
}

func TestSetTarget(t *testing.T) {
	inPool(t, 1, 4, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		for _, n := range []int{4, 1, 0, 3} {
			if err := p.SetTarget(n); err != nil {
				t.Error(err)
			}
			time.Sleep(2 * startTime)
			synctest.Wait()
			if s := p.Stats(); s.Warm != n || s.Target != n || s.Draining != 0 {
				t.Errorf("Stats with target %d = %+v", n, s)
			}
		}
		if err := p.SetTarget(-1); err == nil {
			t.Error("a negative target was accepted")
		}
	})
}

func TestCloseTurnsWaitersAwayAndCancelsStarts(t *testing.T) {
	inPool(t, 1, 2, func(t *testing.T, f *factory, p *pool.Pool[*item]) {
		time.Sleep(startTime)
		synctest.Wait()
		mine := acquire(t, p)
		refused := make(chan error, 1)
		go func() {
			_, err := p.Acquire(t.Context())
			refused <- err
		}()
		synctest.Wait()
		began := time.Now()
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-refused; !errors.Is(err, pool.ErrClosed) {
			t.Errorf("the waiter got %v", err)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("Close took %v: it waited for starts instead of cancelling them", d)
		}
		release(t, p, mine) // an owner may be done later
		if err := p.SetTarget(1); !errors.Is(err, pool.ErrClosed) {
			t.Errorf("SetTarget after Close: %v", err)
		}
	})
}

func TestCloseGivesUpWaitingWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		p, err := pool.New(pool.Config[int]{
			Target:  1,
			Start:   func(context.Context) (int, error) { <-release; return 1, nil }, // deaf to its context
			Destroy: func(context.Context, int) error { return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Close(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 starting") {
			t.Errorf("Close = %v", err)
		}
		close(release)
		if err := p.Close(t.Context()); err != nil {
			t.Errorf("second Close = %v", err)
		}
	})
}
