package main

import (
	"net/netip"
	"testing"
)

func TestBothFamilies(t *testing.T) {
	for _, test := range []struct {
		texts []string
		want  string
		ok    bool
	}{
		{nil, "invalid IP invalid IP", true},
		{[]string{"192.0.2.1"}, "192.0.2.1 invalid IP", true},
		{[]string{"2001:db8::1", "192.0.2.1"}, "192.0.2.1 2001:db8::1", true},
		{[]string{"192.0.2.1", "192.0.2.2"}, "", false},
		{[]string{"node"}, "", false},
	} {
		v4, v6, err := bothFamilies(test.texts, netip.ParseAddr, netip.Addr.Is4)
		if (err == nil) != test.ok {
			t.Errorf("%v: %v", test.texts, err)
		}
		if got := v4.String() + " " + v6.String(); test.ok && got != test.want {
			t.Errorf("%v: got %s, want %s", test.texts, got, test.want)
		}
	}
}
