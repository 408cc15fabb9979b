package socket

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPortsCheck(t *testing.T) {
	kernel := Ports{32768, 60999}
	for _, test := range []struct {
		name  string
		ports Ports
		want  error // nil: accepted; errInvalid: any other error
	}{
		{"default", DefaultPorts, nil},
		{"last before NodePorts", Ports{29999, 29999}, nil},
		{"above the ephemeral ports", Ports{61000, 65535}, nil},
		{"into NodePorts", Ports{20000, 30000}, ErrOverlap},
		{"within NodePorts", Ports{31000, 31010}, ErrOverlap},
		{"around NodePorts", Ports{20000, 32767}, ErrOverlap},
		{"into ephemeral", Ports{60999, 61500}, ErrOverlap},
		{"from zero", Ports{0, 100}, errInvalid},
		{"backwards", Ports{200, 100}, errInvalid},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := test.ports.check(kernel, DefaultNodePorts)
			switch {
			case test.want == nil && err != nil:
				t.Errorf("refused: %v", err)
			case errors.Is(test.want, errInvalid) && (err == nil || errors.Is(err, ErrOverlap)):
				t.Errorf("got %v, want a refusal of the range itself", err)
			case errors.Is(test.want, ErrOverlap) && !errors.Is(err, ErrOverlap):
				t.Errorf("got %v, want %v", err, ErrOverlap)
			}
		})
	}
}

var errInvalid = errors.New("invalid")

func TestParseEphemeral(t *testing.T) {
	got, err := parseEphemeral("32768\t60999\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Ports{32768, 60999}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, text := range []string{"", "1", "1 2 3", "a b", "1 70000", "-1 5"} {
		if got, err := parseEphemeral(text); err == nil {
			t.Errorf("parseEphemeral(%q) = %v, want an error", text, got)
		}
	}
}

func TestConfigValidate(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.10")
	for _, test := range []struct {
		name   string
		config Config
		ok     bool
	}{
		{"one address", Config{NodeIP: node}, true},
		{"another bit", Config{NodeIP: node, Mark: 0x20000000}, true},
		{"no address", Config{}, false},
		{"wildcard", Config{NodeIP: netip.IPv4Unspecified()}, false},
		{"IPv6", Config{NodeIP: netip.MustParseAddr("2001:db8::1")}, true},
		{"IPv4 in IPv6's form", Config{NodeIP: netip.MustParseAddr("::ffff:192.0.2.10")}, false},
		{"an interface's own", Config{NodeIP: netip.MustParseAddr("fe80::1%eth0")}, false},
		{"two bits", Config{NodeIP: node, Mark: 3}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if err := test.config.withDefaults().validate(); (err == nil) != test.ok {
				t.Errorf("error %v, want accepted: %v", err, test.ok)
			}
		})
	}
}

// A port comes back only after every other free one.
func TestRangeGivesTheLeastRecentlyUsedPort(t *testing.T) {
	r := newRange(Config{Ports: Ports{10, 12}})
	take := func() uint16 {
		t.Helper()
		port, ok := r.take()
		if !ok {
			t.Fatal("no port left")
		}
		return port
	}
	first := take()
	r.put(first)
	if got := []uint16{take(), take(), take()}; !cmp.Equal(got, []uint16{11, 12, first}) {
		t.Errorf("got %v after port %d was put back, want 11, 12, then it", got, first)
	}
	if port, ok := r.take(); ok {
		t.Errorf("got port %d from an empty range", port)
	}
}

func TestOpenSaysThatNoPortIsLeft(t *testing.T) {
	r := newRange(Config{NodeIP: netip.MustParseAddr("127.0.0.1"), Ports: Ports{10, 10}})
	r.take()
	if _, err := r.Open(context.Background()); !errors.Is(err, ErrNoPort) {
		t.Errorf("got %v, want %v", err, ErrNoPort)
	}
}
