package podaddress

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestKeyHoldsAnAddress(t *testing.T) {
	addr := netip.MustParseAddr("10.245.3.7")
	k := keyOf(addr)
	if got := k.addr(); got != addr {
		t.Errorf("got %v back, want %v", got, addr)
	}
	want := [16]byte{10: 0xff, 11: 0xff, 12: 10, 13: 245, 14: 3, 15: 7}
	if diff := cmp.Diff(want, k.Addr); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if k == agentKey {
		t.Error("an address has the agent's key")
	}
}

func TestConfigValidate(t *testing.T) {
	good := Config{
		CIDRs: []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16"), netip.MustParsePrefix("fd10:245::/64")}, Way: Auto, PinDir: "/sys/fs/bpf/x",
		Listener: &net.TCPListener{}, Sources: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
	}
	if err := good.validate(); err != nil {
		t.Fatalf("refused: %v", err)
	}
	for name, spoil := range map[string]func(*Config){
		"no range":            func(c *Config) { c.CIDRs = nil },
		"no CIDR":             func(c *Config) { c.CIDRs = make([]netip.Prefix, 1) },
		"two of a family":     func(c *Config) { c.CIDRs[1] = netip.MustParsePrefix("10.247.0.0/16") },
		"everything":          func(c *Config) { c.CIDRs[0] = netip.MustParsePrefix("0.0.0.0/0") },
		"host bits":           func(c *Config) { c.CIDRs[0] = netip.MustParsePrefix("10.245.1.0/16") },
		"host bits of IPv6":   func(c *Config) { c.CIDRs[1] = netip.MustParsePrefix("fd10:245::1/64") },
		"no folder":           func(c *Config) { c.PinDir = "" },
		"no such way":         func(c *Config) { c.Way = "redirect" },
		"source in the CIDR":  func(c *Config) { c.Sources[0] = netip.MustParseAddr("10.245.0.1") },
		"sources of a family": func(c *Config) { c.Sources[1] = netip.MustParseAddr("192.0.2.2") },
		"no listener":         func(c *Config) { c.Listener = nil },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			c.CIDRs, c.Sources = slices.Clone(good.CIDRs), slices.Clone(good.Sources)
			spoil(&c)
			if err := c.validate(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func TestPinDirMustBeOnBPFFilesystem(t *testing.T) {
	if err := preparePinDir(t.TempDir() + "/a/b"); err == nil {
		t.Error("a folder of an ordinary filesystem was accepted")
	}
}
