package pool

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// slotsModel drives slots with arbitrary events and keeps its own simple books.
type slotsModel struct {
	s        *slots[int]
	now      time.Time
	next     int            // the next item
	starting int            // starts begun and not ended
	owned    []int          // leased to somebody
	drained  []int          // being destroyed
	waiting  []*waiter[int] // in the order of their coming
	handed   []*waiter[int] // got an item that they have not taken yet
	items    map[*waiter[int]]int
	dead     map[int]bool
	seen     map[int]bool // ever leased to somebody who saw it
}

func (m *slotsModel) alive(item int) bool { return !m.dead[item] }

func (m *slotsModel) fill(t *rapid.T) {
	n, wait := m.s.starts(m.now)
	if n > 0 && m.s.failures > 0 && m.now.Before(m.s.retryAt) {
		t.Fatalf("began %d starts during back-off", n)
	}
	if n > 0 && len(m.waiting) == 0 && m.now.Before(m.s.restUntil) {
		t.Fatalf("began %d starts for nobody during a rest", n)
	}
	if n > 0 && wait > 0 {
		t.Fatalf("began %d starts and is to wait %v", n, wait)
	}
	m.starting += n
}

func (m *slotsModel) placed(t *rapid.T, item int, to *waiter[int], surplus bool) {
	if to != nil && surplus {
		t.Fatal("an item is given away and surplus")
	}
	if surplus {
		m.drained = append(m.drained, item)
	}
	if to == nil {
		if !surplus && m.dead[item] {
			t.Fatalf("the dead item %d is kept", item)
		}
		return
	}
	if m.dead[item] {
		t.Fatalf("the dead item %d is given to a waiter", item)
	}
	if len(m.waiting) == 0 || to != m.waiting[0] {
		t.Fatal("the item went to another than the first waiter")
	}
	m.waiting = m.waiting[1:]
	m.handed = append(m.handed, to)
	m.items[to] = item
}

func TestSlotsKeepTheirInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &slotsModel{
			s: newSlots[int](rapid.IntRange(0, 4).Draw(t, "target"), rapid.IntRange(1, 3).Draw(t, "parallel"),
				100*time.Millisecond, 10*time.Second, time.Duration(rapid.IntRange(0, 1000).Draw(t, "rest ms"))*time.Millisecond),
			now: time.Unix(0, 0), items: map[*waiter[int]]int{}, dead: map[int]bool{}, seen: map[int]bool{},
		}
		take := func(list *[]int, label string) int {
			i := rapid.IntRange(0, len(*list)-1).Draw(t, label)
			item := (*list)[i]
			*list = slices.Delete(*list, i, i+1)
			return item
		}
		m.fill(t)
		t.Repeat(map[string]func(*rapid.T){
			"start ends with an item": func(t *rapid.T) {
				if m.starting == 0 {
					return
				}
				m.starting--
				m.next++
				m.dead[m.next] = rapid.Float64().Draw(t, "dead") < 0.1
				to, surplus := m.s.startDone(m.next, m.alive(m.next))
				m.placed(t, m.next, to, surplus)
			},
			"start fails": func(t *rapid.T) {
				if m.starting == 0 {
					return
				}
				m.starting--
				m.s.startFailed(m.now, errors.New("x"))
			},
			"time passes": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond)
			},
			"acquire": func(t *rapid.T) {
				if m.s.closed {
					return
				}
				item, w, dead := m.s.acquire(m.now, m.alive)
				m.drained = append(m.drained, dead...)
				if w != nil {
					m.waiting = append(m.waiting, w)
					return
				}
				if m.seen[item] || m.dead[item] {
					t.Fatalf("item %d was leased before or is dead", item)
				}
				m.seen[item] = true
				m.owned = append(m.owned, item)
			},
			"a waiter takes its item": func(t *rapid.T) {
				if len(m.handed) == 0 {
					return
				}
				w := m.handed[0]
				m.handed = m.handed[1:]
				if m.s.leave(w) {
					t.Fatal("a waiter that got an item is still in the queue")
				}
				if m.seen[m.items[w]] {
					t.Fatalf("item %d was leased before", m.items[w])
				}
				m.seen[m.items[w]] = true
				m.owned = append(m.owned, m.items[w])
			},
			"a waiter leaves too late": func(t *rapid.T) {
				if len(m.handed) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.handed)-1).Draw(t, "who")
				w := m.handed[i]
				m.handed = slices.Delete(m.handed, i, i+1)
				if m.s.leave(w) {
					t.Fatal("a waiter that got an item is still in the queue")
				}
				to, surplus := m.s.giveBack(m.items[w], m.alive(m.items[w]))
				m.placed(t, m.items[w], to, surplus)
			},
			"a waiter leaves": func(t *rapid.T) {
				if len(m.waiting) == 0 {
					return
				}
				i := rapid.IntRange(0, len(m.waiting)-1).Draw(t, "who")
				if !m.s.leave(m.waiting[i]) {
					t.Fatal("a waiter is not in the queue")
				}
				m.waiting = slices.Delete(m.waiting, i, i+1)
			},
			"owner drains": func(t *rapid.T) {
				if len(m.owned) == 0 {
					return
				}
				item := take(&m.owned, "item")
				if err := m.s.drain(item); err != nil {
					t.Fatal(err)
				}
				m.drained = append(m.drained, item)
			},
			"destroyed": func(t *rapid.T) {
				if len(m.drained) == 0 {
					return
				}
				item := take(&m.drained, "item")
				if err := m.s.done(item); err != nil {
					t.Fatal(err)
				}
				if err := m.s.done(item); !errors.Is(err, errNotLeased) {
					t.Fatalf("a second done: %v", err)
				}
				if m.s.die(item) {
					t.Fatal("what is gone was lost")
				}
			},
			"an item dies": func(t *rapid.T) {
				if m.next == 0 {
					return
				}
				item := rapid.IntRange(1, m.next).Draw(t, "item")
				m.dead[item] = true
				if rapid.Bool().Draw(t, "told") && m.s.die(item) {
					m.drained = append(m.drained, item)
				}
			},
			"target changes": func(t *rapid.T) {
				if m.s.closed {
					return
				}
				m.drained = append(m.drained, m.s.setTarget(rapid.IntRange(0, 4).Draw(t, "target"))...)
			},
			"close": func(t *rapid.T) {
				if m.s.closed || rapid.Float64().Draw(t, "close") > 0.02 {
					return
				}
				surplus, turnedAway := m.s.close()
				m.drained = append(m.drained, surplus...)
				if !slices.Equal(turnedAway, m.waiting) {
					t.Fatal("others were turned away than waited")
				}
				m.waiting = nil
			},
			"": func(t *rapid.T) {
				m.fill(t)
				if err := m.s.check(); err != nil {
					t.Fatal(err)
				}
				s := m.s
				if m.starting != s.warming {
					t.Fatalf("%d starts run, %d are counted", m.starting, s.warming)
				}
				if got, want := len(s.owned), len(s.ready)+len(m.owned)+len(m.drained)+len(m.handed); got != want {
					t.Fatalf("%d items are known, %d exist", got, want)
				}
				resting := len(s.waiters) == 0 && m.now.Before(s.restUntil)
				if !s.closed && s.failures == 0 && !resting && s.warming < s.maxParallel && len(s.ready)+s.warming < s.target+len(s.waiters) {
					t.Fatalf("idle: warming %d, warm %d, target %d, waiting %d", s.warming, len(s.ready), s.target, len(s.waiters))
				}
				if s.closed && s.warming > 0 && m.starting == 0 {
					t.Fatal("starts after close")
				}
			},
		})
	})
}

func TestBackoffDoublesUpToItsMaximum(t *testing.T) {
	s := newSlots[int](1, 4, 100*time.Millisecond, time.Second, 0)
	now := time.Unix(0, 0)
	var waits []time.Duration
	for range 6 {
		if n, _ := s.starts(now); n != 1 {
			t.Fatalf("starts = %d, want 1", n)
		}
		s.startFailed(now, errors.New("x"))
		n, wait := s.starts(now)
		if n != 0 {
			t.Fatalf("%d starts right after a failure", n)
		}
		waits = append(waits, wait)
		now = now.Add(wait)
	}
	const ms = time.Millisecond
	if want := []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, time.Second, time.Second}; !slices.Equal(waits, want) {
		t.Errorf("waits %v, want %v", waits, want)
	}
}
