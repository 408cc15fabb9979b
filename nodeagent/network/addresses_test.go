package network

import (
	"net/netip"
	"testing"
)

func TestAddressesGoRoundTheRange(t *testing.T) {
	prefix := netip.MustParsePrefix("192.0.2.0/29")
	a := newAddresses(prefix, netip.MustParseAddr("192.0.2.1"))
	var got []netip.Addr
	for range 5 { // .2 to .6; .0, .1 and .7 are not for containers
		addr, err := a.take()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, addr)
	}
	if first, last := got[0].String(), got[4].String(); first != "192.0.2.2" || last != "192.0.2.6" {
		t.Errorf("got %v, want .2 to .6", got)
	}
	if addr, err := a.take(); err == nil {
		t.Errorf("got %v from an exhausted range", addr)
	}
	a.give(got[3])
	a.give(got[0])
	for _, want := range []netip.Addr{got[0], got[3]} {
		if addr, err := a.take(); err != nil || addr != want {
			t.Errorf("got %v, %v, want %v", addr, err, want)
		}
	}
	// Given again as late as possible: the next free one comes first.
	b := newAddresses(prefix, netip.MustParseAddr("192.0.2.1"))
	first, _ := b.take()
	b.give(first)
	if second, _ := b.take(); second == first {
		t.Errorf("%v was given again at once", first)
	}
}

func TestAddressesClaim(t *testing.T) {
	a := newAddresses(netip.MustParsePrefix("192.0.2.0/29"), netip.MustParseAddr("192.0.2.1"))
	for _, test := range []struct {
		addr string
		want bool
	}{
		{"192.0.2.2", true},
		{"192.0.2.2", false}, // once
		{"192.0.2.1", false}, // the bridge's
		{"192.0.2.9", false}, // outside
	} {
		if got := a.claim(netip.MustParseAddr(test.addr)); got != test.want {
			t.Errorf("claim(%s) = %v, want %v", test.addr, got, test.want)
		}
	}
	if addr, err := a.take(); err != nil || addr.String() != "192.0.2.3" {
		t.Errorf("got %v, %v, want 192.0.2.3", addr, err)
	}
}
