//go:build integration

package podaddress

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// Connections are made all the while an agent closes and its successor takes
// over; each must be answered.
func TestRestartRefusesNoConnection(t *testing.T) {
	serve(t, "wildcard", "0.0.0.0:10250")
	config := Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: serve(t, "agent", "127.0.0.1:7071").listener}
	owner, err := Open(t.Context(), config)
	must(t, err)
	container := serve(t, "container", "127.0.0.1:20000")
	must(t, owner.Assign(hello))
	must(t, owner.Assign(other))
	must(t, owner.Direct(hello, container.listener))

	stop := make(chan struct{})
	done := make(chan error, 3)
	counts := make(chan int, 3)
	caller := func(addr netip.Addr, port uint16, answers string) {
		at := netip.AddrPortFrom(addr, port).String()
		n := 0
		defer func() { counts <- n }()
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			answer, err := call(at, patience)
			if answers == "" {
				if err == nil {
					done <- errUnexpected(at, answer)
					return
				}
			} else if err != nil || !strings.HasPrefix(answer, answers) {
				done <- errUnexpected(at, answer, err)
				return
			}
			n++
		}
	}
	go caller(hello, 80, "container")
	go caller(other, 80, "agent")
	go caller(netip.MustParseAddr("10.245.77.1"), 10250, "") // never fails open
	const restarts = 20
	for range restarts {
		must(t, owner.Close())
		owner, err = Open(t.Context(), config)
		must(t, err)
	}
	close(stop)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d restarts under %d + %d + %d connections", restarts, <-counts, <-counts, <-counts)
	must(t, owner.Uninstall(t.Context()))
}

func errUnexpected(at, answer string, err ...error) error {
	return &unexpected{at, answer, err}
}

type unexpected struct {
	at, answer string
	err        []error
}

func (u *unexpected) Error() string {
	text := u.at + ": answer " + u.answer
	for _, err := range u.err {
		if err != nil {
			text += ", " + err.Error()
		}
	}
	return text
}

// TestSwitchTime reports how long leading an address elsewhere takes, which is
// one update of a map.
func TestSwitchTime(t *testing.T) {
	owner := openOwner(t, serve(t, "agent", "127.0.0.1:7071").listener)
	container := serve(t, "container", "127.0.0.1:20000").file(t)
	for i := range 10_000 {
		must(t, owner.Assign(netip.AddrFrom4([4]byte{10, 245, byte(100 + i>>8), byte(i)})))
	}
	must(t, owner.Assign(hello))
	const rounds = 1000
	var direct, park []time.Duration
	for range rounds {
		start := time.Now()
		must(t, owner.Direct(hello, container))
		middle := time.Now()
		must(t, owner.Park(hello))
		direct = append(direct, middle.Sub(start))
		park = append(park, time.Since(middle))
	}
	slices.Sort(direct)
	slices.Sort(park)
	t.Logf("with 10,000 addresses assigned: Direct p50 %v, p99 %v; Park p50 %v, p99 %v",
		direct[rounds/2], direct[rounds*99/100], park[rounds/2], park[rounds*99/100])
	if p50 := direct[rounds/2]; p50 > 10*time.Millisecond {
		t.Errorf("Direct takes %v", p50)
	}
}

// A restarted agent with a new listener gets all parked pods with it, while the
// old one is still there to finish.
func TestNewListenerTakesOver(t *testing.T) {
	config := Config{CIDR: testCIDR, PinDir: pinDir(t), Listener: serve(t, "old", "127.0.0.1:7071").listener}
	first, err := Open(t.Context(), config)
	must(t, err)
	must(t, first.Assign(hello))
	must(t, first.Assign(other))
	must(t, first.Close())
	mustAnswer(t, "old", hello, 80)
	openOwner(t, serve(t, "new", "127.0.0.1:7072").listener)
	mustAnswer(t, "new", hello, 80)
	mustAnswer(t, "new", other, 80)
}

// Of an earlier range nothing stays, neither its route nor its addresses.
func TestRangeCanBeChanged(t *testing.T) {
	agent := serve(t, "agent", "127.0.0.1:7071")
	config := Config{CIDR: netip.MustParsePrefix("10.99.0.0/16"), PinDir: pinDir(t), Listener: agent.listener}
	first, err := Open(t.Context(), config)
	must(t, err)
	must(t, first.Assign(netip.MustParseAddr("10.99.0.1")))
	must(t, first.Close())
	owner := openOwner(t, agent.listener)
	addrs, err := owner.Assigned()
	must(t, err)
	if len(addrs) != 0 {
		t.Errorf("still assigned: %v", addrs)
	}
	if answer, err := call("10.99.0.1:7071", soon); err == nil {
		t.Errorf("10.99.0.1 answers %q", answer)
	}
}
