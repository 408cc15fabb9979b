package provider

import (
	"errors"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAddresses(t *testing.T) {
	now := time.Unix(0, 0)
	a, err := newAddresses(netip.MustParsePrefix("10.245.0.0/30"), 0, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	one, two := netip.MustParseAddr("10.245.0.1"), netip.MustParseAddr("10.245.0.2")
	if !a.keep("old", two) || a.keep("other", two) || a.keep("x", netip.MustParseAddr("10.9.9.9")) {
		t.Fatal("keep: an address of the CIDR is kept once, others are not")
	}
	if got, err := a.take("new"); err != nil || got != one {
		t.Fatalf("got %v, %v", got, err)
	}
	if got, err := a.take("new"); err != nil || got != one {
		t.Fatalf("asked again, got %v, %v", got, err)
	}
	if _, err := a.take("third"); !errors.Is(err, ErrNoAddress) {
		t.Fatalf("a full CIDR gave %v", err)
	}
	a.release("old")
	if _, err := a.take("third"); !errors.Is(err, ErrNoAddress) {
		t.Fatalf("a resting address was given: %v", err)
	}
	now = now.Add(addressRest)
	if got, err := a.take("third"); err != nil || got != two {
		t.Fatalf("got %v, %v", got, err)
	}
}

// No two pods ever have one address, and none is given again before it rested.
func TestAddressesNeverShareNorHurry(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(0, 0)
		cidr := netip.MustParsePrefix("10.245.7.0/28")
		a, err := newAddresses(cidr, rapid.Uint64().Draw(t, "start"), func() time.Time { return now })
		if err != nil {
			t.Fatal(err)
		}
		held, free := map[string]netip.Addr{}, map[netip.Addr]time.Time{}
		t.Repeat(map[string]func(*rapid.T){
			"take": func(t *rapid.T) {
				uid := strconv.Itoa(rapid.IntRange(0, 20).Draw(t, "uid"))
				addr, err := a.take(uid)
				if err != nil {
					if len(held) < 14 && len(held)+len(free) < 14 {
						t.Fatalf("%d held, %d released, and %v", len(held), len(free), err)
					}
					return
				}
				if !cidr.Contains(addr) {
					t.Fatalf("%v is not of %v", addr, cidr)
				}
				for other, its := range held {
					if its == addr && other != uid {
						t.Fatalf("%v is %s's and %s's", addr, uid, other)
					}
				}
				if since, ok := free[addr]; ok && held[uid] != addr && now.Sub(since) < addressRest {
					t.Fatalf("%v rested only %v", addr, now.Sub(since))
				}
				held[uid] = addr
				delete(free, addr)
			},
			"keep": func(t *rapid.T) {
				uid := strconv.Itoa(rapid.IntRange(0, 20).Draw(t, "uid"))
				addr := advance(cidr.Addr(), rapid.Uint64Range(0, 15).Draw(t, "n"))
				if _, resting := free[addr]; !resting && a.keep(uid, addr) {
					held[uid] = addr
				}
			},
			"release": func(t *rapid.T) {
				uid := strconv.Itoa(rapid.IntRange(0, 20).Draw(t, "uid"))
				a.release(uid)
				if addr, ok := held[uid]; ok {
					free[addr] = now
					delete(held, uid)
				}
			},
			"wait": func(t *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(1, 700).Draw(t, "seconds")) * time.Second)
			},
		})
	})
}
