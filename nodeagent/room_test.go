package nodeagent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// memory is a node's for tests: what is left of it.
type memory struct{ left atomic.Int64 }

func (m *memory) read(int64) (int64, error) { return m.left.Load(), nil }

func newMemory(left int64) *memory {
	m := &memory{}
	m.left.Store(left)
	return m
}

func TestRoomIsNotPromisedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(40 << 20)
		shorts := 0
		r := newRoom(m.read, func() { shorts++ })
		first, err := r.forLoad(t.Context(), 16<<20)
		if err != nil {
			t.Fatal(err)
		}
		second, err := r.forLoad(t.Context(), 16<<20)
		if err != nil || shorts != 0 {
			t.Fatal(err, shorts)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errQueueTimeout)
		defer cancel()
		begun := time.Now()
		if _, err := r.forLoad(ctx, 16<<20); !errors.Is(err, errNoRoom) || !errors.Is(err, errQueueTimeout) || refusal(err) != "NodeFull" {
			t.Errorf("a third of 16 in 40 MiB: %v", err)
		}
		if time.Since(begun) != time.Minute || shorts < 1000 {
			t.Errorf("waited %v, and asked for room %d times", time.Since(begun), shorts)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			third, err := r.forLoad(t.Context(), 16<<20)
			if err != nil {
				t.Error(err)
				return
			}
			third()
		}()
		synctest.Wait()
		first() // its 16 MiB turned out not to be used
		<-done
		second()
		second() // changes nothing
		if r.promised != 0 || len(r.loads)+len(r.starts) != 0 || !r.shortSince(begun) || r.shortSince(time.Now().Add(1)) {
			t.Errorf("%+v", r)
		}
	})
}

func TestRoomIsGivenInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(0)
		r := newRoom(m.read, func() {})
		var mu sync.Mutex
		var order []string
		var all sync.WaitGroup
		begin := func(name string, take func() (func(), error)) {
			all.Go(func() {
				done, err := take()
				if err != nil {
					t.Error(name, err)
					return
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				m.left.Add(-32 << 20)
				done()
			})
			synctest.Wait()
		}
		gone, cancel := context.WithCancel(t.Context())
		go func() { _, _ = r.forLoad(gone, 1<<20) }() // its client goes away
		synctest.Wait()
		begin("start", func() (func(), error) { return r.forStart(t.Context()) })
		begin("large load", func() (func(), error) { return r.forLoad(t.Context(), 32<<20) })
		begin("small load", func() (func(), error) { return r.forLoad(t.Context(), 1<<20) })
		cancel()
		for range 4 { // never enough for two, and for the small one sooner than for the large
			m.left.Add(32 << 20)
			r.freed()
			synctest.Wait()
		}
		all.Wait()
		if want := []string{"large load", "small load", "start"}; !slices.Equal(order, want) {
			t.Errorf("the order is %v, want %v", order, want)
		}
	})
}

// Memory that came free without anybody saying so is found.
func TestRoomIsLookedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(0)
		r := newRoom(m.read, func() {})
		time.AfterFunc(time.Second, func() { m.left.Store(startBytes) })
		begun := time.Now()
		done, err := r.forStart(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		done()
		if took := time.Since(begun); took < time.Second || took > time.Second+roomLook {
			t.Errorf("found after %v", took)
		}
	})
}

func TestRoomThatCannotBeReadIsAnError(t *testing.T) {
	broken := errors.New("broken")
	r := newRoom(func(int64) (int64, error) { return 0, broken }, func() {})
	if _, err := r.forLoad(t.Context(), 1); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if r.loadsWaiting() != 0 {
		t.Error("it waits for ever")
	}
}
