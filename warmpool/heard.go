package warmpool

import (
	"math"
	"time"
)

// heardWithin bounds how long anything waits for routers to say that they have a
// change. One that is silent for longer is cut off, or stuck; nobody waits for it
// again before it has caught up.
const heardWithin = time.Second

// hearer is one router that watches the table, and what it has of it.
type hearer struct {
	name string
	// acknowledged is the revision it has last said to have.
	acknowledged uint64
	// missed is the table's revision when it was waited for in vain. It has caught up
	// when it has that, though the table may have gone on. 0: it is not silent.
	missed uint64
	// left is when its stream ended; zero: it goes on. For a moment it is waited for,
	// as it goes on with the routes it has until it is back under the same name.
	left time.Time
}

// hear begins to count a router among those that have to hear of changes.
func (t *RouteTable) hear(name string) *hearer {
	t.mu.Lock()
	defer t.mu.Unlock()
	for h := range t.hearers {
		if h.name == name && !h.left.IsZero() {
			delete(t.hearers, h)
		}
	}
	h := &hearer{name: name}
	t.hearers[h] = true
	return h
}

// leaves notes that a router's stream has ended.
func (t *RouteTable) leaves(h *hearer, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h.left = now; h.missed > 0 {
		delete(t.hearers, h)
	}
}

// ignore stops counting a router, which does not say what it has.
func (t *RouteTable) ignore(h *hearer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.hearers, h)
}

// acknowledge notes what a router has. What belongs to another run of the control
// plane is nothing.
func (t *RouteTable) acknowledge(h *hearer, generation, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if generation != t.generation || revision > t.revision {
		return
	}
	h.acknowledged = max(h.acknowledged, revision)
	if h.acknowledged >= h.missed {
		h.missed = 0
	}
}

// Heard is the revision that every router has which answers, the greatest number if
// there is none.
func (t *RouteTable) Heard(now time.Time) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	least := uint64(math.MaxUint64)
	for h := range t.hearers {
		switch {
		case !h.left.IsZero() && now.Sub(h.left) >= heardWithin:
			delete(t.hearers, h)
		case h.missed == 0:
			least = min(least, h.acknowledged)
		}
	}
	return least
}

// Current is the table's revision.
func (t *RouteTable) Current() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.revision
}

// giveUpOn has nobody wait any longer for routers that do not have a revision.
func (t *RouteTable) giveUpOn(revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for h := range t.hearers {
		if h.acknowledged >= revision {
			continue
		}
		if h.missed = t.revision; !h.left.IsZero() {
			delete(t.hearers, h)
		}
	}
}

// unheard is a pod that is ready at its home and is not called so before routers
// know where it is.
type unheard struct {
	pod      *pod
	revision uint64
	since    time.Time // set by the first Tick
}

// announce decides, after a pod's route was set, whether everybody has to hear of it
// first.
func (b *Books) announce(p *pod, ready bool, revision uint64) {
	uid := p.uid()
	switch {
	case !isReady(p.status) || p.withdrawing:
		p.announced = false
		b.forgetUnheard(uid)
	case !ready || p.announced || b.unheard[uid] != nil:
	case b.routes.Heard(time.Time{}) >= revision:
		p.announced = true
	default:
		b.unheard[uid] = &unheard{pod: p, revision: revision}
		b.waitsForHearers.Store(true)
	}
}

func (b *Books) forgetUnheard(uid string) {
	delete(b.unheard, uid)
	b.waitsForHearers.Store(len(b.unheard) > 0)
}

// Heard has the pods called ready whose routes every router has by now. It is to be
// called when a router has acknowledged something, and costs nothing while no pod
// waits for that.
func (b *Books) Heard(now time.Time) {
	if !b.waitsForHearers.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.announceHeard(now)
}

// announceHeard does that, also for those that have waited long enough. Before the
// books are settled routers are told nothing, so that nobody waits for them in vain.
func (b *Books) announceHeard(now time.Time) {
	if !isClosed(b.settled) {
		return
	}
	heard := b.routes.Heard(now)
	for uid, u := range b.unheard {
		late := !u.since.IsZero() && now.Sub(u.since) >= heardWithin
		if u.since.IsZero() {
			u.since = now
		}
		if u.revision > heard && !late {
			continue
		}
		if u.revision > heard {
			b.routes.giveUpOn(u.revision)
		}
		u.pod.announced = true
		b.forgetUnheard(uid)
		b.changed[uid] = true
		wake(b.changedWake)
	}
}
