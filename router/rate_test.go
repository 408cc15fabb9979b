package router

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestRateLetsInABurstAndThenItsPace(t *testing.T) {
	r, b := newRate(10, 5), new(bucket)
	now := int64(time.Hour)
	for i := range 5 {
		if _, ok := b.take(r, now); !ok {
			t.Fatalf("request %d of a burst of 5 was refused", i+1)
		}
	}
	wait, ok := b.take(r, now)
	if ok || wait != 100*time.Millisecond {
		t.Fatalf("the sixth: let in %v, wait %v; want to wait 100ms", ok, wait)
	}
	if _, ok := b.take(r, now+int64(wait)-1); ok {
		t.Error("let in before the time that was told")
	}
	if _, ok := b.take(r, now+int64(wait)); !ok {
		t.Error("refused at the time that was told")
	}
	// After a pause there is one burst, however long it was.
	now += int64(time.Hour)
	n := 0
	for ok = true; ok; n++ {
		_, ok = b.take(r, now)
	}
	if n-1 != 5 {
		t.Errorf("%d at once after a pause, want 5", n-1)
	}
}

func TestRatesThatMakeNoSense(t *testing.T) {
	for _, perSecond := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if r := newRate(perSecond, 5); r != (rate{}) {
			t.Errorf("%v requests a second are %+v, want no limit", perSecond, r)
		}
	}
	for _, perSecond := range []float64{1e-300, 1e-9, 1e9, 1e300} {
		r, b := newRate(perSecond, math.MaxUint32), new(bucket)
		if _, ok := b.take(r, -5); !ok || r.interval <= 0 {
			t.Errorf("%v requests a second: the first is refused", perSecond)
		}
	}
}

// However requests come and the rate changes, in no span of time are there more than
// the burst and what the span allows for.
func TestRateHoldsInEverySpan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRate(float64(rapid.IntRange(1, 1000).Draw(t, "rate")), uint32(rapid.IntRange(1, 20).Draw(t, "burst")))
		b := new(bucket)
		now := int64(0)
		var in []int64
		for range rapid.IntRange(1, 200).Draw(t, "requests") {
			now += int64(rapid.IntRange(0, 20).Draw(t, "ms")) * int64(time.Millisecond)
			if _, ok := b.take(r, now); ok {
				in = append(in, now)
			}
		}
		for i := range in {
			for j := i; j < len(in); j++ {
				if allowed := r.burst + (in[j]-in[i])/r.interval + 1; int64(j-i+1) > allowed {
					t.Fatalf("%d requests in %v, of a rate of one in %v and a burst of %d", j-i+1, time.Duration(in[j]-in[i]), time.Duration(r.interval), r.burst)
				}
			}
		}
	})
}
