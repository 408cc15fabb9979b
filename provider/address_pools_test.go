package provider

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestPodsHaveAnAddressOfEachFamily(t *testing.T) {
	v4, v6 := netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd10:245::/64")
	pools, err := newAddressPools(v4, v6, 4, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	hello, err := pools.take("hello")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(podIPs{"10.245.0.4", "fd10:245::4"}, hello); diff != "" {
		t.Error(diff)
	}
	if hello.first() != "10.245.0.4" || hello.second() != "fd10:245::4" || hello.String() != "10.245.0.4,fd10:245::4" {
		t.Errorf("%s, %s, %s", hello.first(), hello.second(), hello)
	}
	status := podStatus(&corev1.Pod{}, situation{podIPs: hello})
	if diff := cmp.Diff([]corev1.PodIP{{IP: "10.245.0.4"}, {IP: "fd10:245::4"}}, status.PodIPs); diff != "" || status.PodIP != "10.245.0.4" {
		t.Errorf("%s %s", status.PodIP, diff)
	}

	// After a restart the pod keeps both, and what it has none of it gets.
	pools, err = newAddressPools(v4, v6, 9, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if refused := pools.keep("hello", addressesOf(&corev1.Pod{Status: status})); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if refused := pools.keep("former", []netip.Addr{netip.MustParseAddr("10.245.0.7")}); len(refused) > 0 {
		t.Errorf("refused: %v", refused)
	}
	if refused := pools.keep("stranger", []netip.Addr{netip.MustParseAddr("10.99.0.7"), netip.MustParseAddr("fd10:245::4")}); len(refused) != 2 {
		t.Errorf("refused: %v, want both", refused)
	}
	for uid, want := range map[string]podIPs{"hello": hello, "former": {"10.245.0.7", "fd10:245::9"}} {
		if got, err := pools.take(uid); err != nil || !cmp.Equal(want, got) {
			t.Errorf("%s: %v, %v, want %v", uid, got, err, want)
		}
	}
}

func TestWithoutARangeThereAreNoAddresses(t *testing.T) {
	if _, err := newAddressPools(netip.Prefix{}, netip.Prefix{}, 0, time.Now); err == nil {
		t.Error("accepted")
	}
}
