package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestConfigValidate(t *testing.T) {
	good := Config{Dir: "/run/sanfran/netns", FunctionCIDRs: []netip.Prefix{netip.MustParsePrefix("10.245.0.0/16")}}.withDefaults()
	if err := good.validate(); err != nil {
		t.Fatalf("refused: %v", err)
	}
	for name, spoil := range map[string]func(*Config){
		"relative folder":        func(c *Config) { c.Dir = "netns" },
		"no folder":              func(c *Config) { c.Dir = "" },
		"long bridge name":       func(c *Config) { c.Bridge = "a234567890123456" },
		"bridge name with slash": func(c *Config) { c.Bridge = "../x" },
		"IPv6":                   func(c *Config) { c.CIDR = netip.MustParsePrefix("2001:db8::/64") },
		"too small":              func(c *Config) { c.CIDR = netip.MustParsePrefix("10.246.0.0/31") },
		"host bits":              func(c *Config) { c.CIDR = netip.MustParsePrefix("10.246.0.1/16") },
		"function pods' range":   func(c *Config) { c.CIDR = netip.MustParsePrefix("10.245.7.0/24") },
		"no name server":         func(c *Config) { c.DNS = make([]netip.Addr, 1) },
		"nothing denied":         func(c *Config) { c.Denied = make([]netip.Prefix, 1) },
		"IPv4 as second":         func(c *Config) { c.CIDR6 = netip.MustParsePrefix("10.247.0.0/16") },
		"too small a second":     func(c *Config) { c.CIDR6 = netip.MustParsePrefix("fd53::/112") },
		"second's host bits":     func(c *Config) { c.CIDR6 = netip.MustParsePrefix("fd53::1/64") },
		"function pods' second": func(c *Config) {
			c.CIDR6 = netip.MustParsePrefix("fd10:245::/64")
			c.FunctionCIDRs = []netip.Prefix{c.CIDR6}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			spoil(&c)
			if err := c.validate(); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// TestDeniedAddressesAreDeniedBehindNAT64, where IPv6 leads to IPv4.
func TestDeniedAddressesAreDeniedBehindNAT64(t *testing.T) {
	c := Config{Denied: []netip.Prefix{netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00:ec2::/32")}}
	if got := c.denied(); !slices.Equal(got, c.Denied) {
		t.Errorf("without IPv6: %v", got)
	}
	c.CIDR6 = netip.MustParsePrefix("fd53::/64")
	if got, want := c.denied(), append(slices.Clone(c.Denied), netip.MustParsePrefix("64:ff9b::a9fe:0/112")); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPortNames(t *testing.T) {
	long, longer := strings.Repeat("a", 127), strings.Repeat("a", 128)
	for _, id := range []string{"a", long, longer} {
		if name := portName(id); !isPortName(name) || len(name) > 15 {
			t.Errorf("portName(%q) = %q", id, name)
		}
	}
	if portName(long) == portName(longer) {
		t.Error("two ids have one name")
	}
	for _, name := range []string{"sfv", "sfvxyz", "sfv0123456789az", "veth0123456789ab", "sanfran0"} {
		if isPortName(name) {
			t.Errorf("%q passes for a port of ours", name)
		}
	}
}

func TestAliasSaysWhoseThePortIs(t *testing.T) {
	addr := netip.MustParseAddr("10.246.1.2")
	id, got, ok := parseAlias(aliasOf("node24-7f.x_y", addr))
	if !ok || id != "node24-7f.x_y" || got != addr {
		t.Errorf("got %q, %v, %v", id, got, ok)
	}
	for _, alias := range []string{"", "sanfran/", "sanfran/x", "sanfran/x/", "sanfran/x/y", "other/x/10.246.1.2", "sanfran/../10.246.1.2"} {
		if id, addr, ok := parseAlias(alias); ok {
			t.Errorf("parseAlias(%q) = %q, %v", alias, id, addr)
		}
	}
}
