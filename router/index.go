package router

import (
	"hash/maphash"
	"sync/atomic"
)

// indexParts is how many parts an index has. A change copies one part: of 10,000
// functions some 40.
const indexParts = 256

// index is a map that is read without locks and without allocating, and written as
// a whole: each part is an immutable map behind an atomic pointer. Look-ups may run
// beside an update; updates must not run beside each other.
type index[V any] struct {
	seed  maphash.Seed
	parts [indexParts]atomic.Pointer[map[FunctionKey]V]
}

func newIndex[V any]() *index[V] { return &index[V]{seed: maphash.MakeSeed()} }

func (x *index[V]) part(key FunctionKey) *atomic.Pointer[map[FunctionKey]V] {
	return &x.parts[maphash.Comparable(x.seed, key)%indexParts]
}

// get returns the value of a key, the zero value if there is none.
func (x *index[V]) get(key FunctionKey) V {
	if m := x.part(key).Load(); m != nil {
		return (*m)[key]
	}
	var none V
	return none
}

// update makes the changes visible, each part's at once. It returns when look-ups
// that begin see them all.
func (x *index[V]) update(changes map[FunctionKey]change[V]) {
	type part = atomic.Pointer[map[FunctionKey]V]
	next := make(map[*part]map[FunctionKey]V)
	for key, c := range changes {
		p := x.part(key)
		m, begun := next[p]
		if !begun {
			var old map[FunctionKey]V
			if loaded := p.Load(); loaded != nil {
				old = *loaded
			}
			m = make(map[FunctionKey]V, len(old)+1)
			for k, v := range old {
				m[k] = v
			}
			next[p] = m
		}
		if c.removed {
			delete(m, key)
		} else {
			m[key] = c.value
		}
	}
	for p, m := range next {
		p.Store(&m)
	}
}

// change is what becomes of a key.
type change[V any] struct {
	value   V
	removed bool
}
