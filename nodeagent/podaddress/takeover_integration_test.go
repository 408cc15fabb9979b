//go:build integration

package podaddress

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// Connections are made all the while an agent closes and its successor takes
// over; each must be answered.
func TestRestartRefusesNoConnection(t *testing.T) {
	eachNode(t, func(n node) {
		serve(n.T, "wildcard", "[::]:10250")
		config := n.config(serve(n.T, "agent", "127.0.0.1:7071").listener)
		owner, err := Open(n.Context(), config)
		must(n.T, err)
		container := serve(n.T, "container", "127.0.0.1:20000")
		must(n.T, owner.Assign(n.hello))
		must(n.T, owner.Assign(n.other))
		must(n.T, owner.Direct(n.hello, container.listener))

		stop := make(chan struct{})
		done := make(chan error, 3)
		counts := make(chan int, 3)
		caller := func(addr netip.Addr, port uint16, answers string) {
			at := netip.AddrPortFrom(addr, port).String()
			calls := 0
			defer func() { counts <- calls }()
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
				calls++
			}
		}
		go caller(n.hello, 80, "container")
		go caller(n.other, 80, "agent")
		go caller(n.other.Next(), 10250, "") // never fails open
		const restarts = 20
		for range restarts {
			must(n.T, owner.Close())
			owner, err = Open(n.Context(), config)
			must(n.T, err)
		}
		close(stop)
		for range 3 {
			if err := <-done; err != nil {
				n.Error(err)
			}
		}
		n.Logf("%d restarts under %d + %d + %d connections", restarts, <-counts, <-counts, <-counts)
		must(n.T, owner.Uninstall(n.Context()))
	})
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
	eachNode(t, func(n node) {
		owner := n.openOwner(serve(n.T, "agent", "127.0.0.1:7071").listener)
		container := serve(n.T, "container", "127.0.0.1:20000").file(n.T)
		// Rules change by a transaction each, which takes longer.
		many, rounds := 10_000, 1000
		if n.way == TProxy {
			many, rounds = 500, 50
		}
		for i := range many {
			raw := n.other.AsSlice()
			raw[len(raw)-2], raw[len(raw)-1] = byte(100+i>>8), byte(i)
			addr, _ := netip.AddrFromSlice(raw)
			must(n.T, owner.Assign(addr))
		}
		must(n.T, owner.Assign(n.hello))
		var direct, park []time.Duration
		for range rounds {
			start := time.Now()
			must(n.T, owner.Direct(n.hello, container))
			middle := time.Now()
			must(n.T, owner.Park(n.hello))
			direct = append(direct, middle.Sub(start))
			park = append(park, time.Since(middle))
		}
		slices.Sort(direct)
		slices.Sort(park)
		n.Logf("with %d addresses assigned: Direct p50 %v, p99 %v; Park p50 %v, p99 %v",
			many, direct[rounds/2], direct[rounds*99/100], park[rounds/2], park[rounds*99/100])
		if p50 := direct[rounds/2]; p50 > 10*time.Millisecond {
			n.Errorf("Direct takes %v", p50)
		}
	})
}

// A restarted agent with a new listener gets all parked pods with it, while the
// old one is still there to finish.
func TestNewListenerTakesOver(t *testing.T) {
	eachNode(t, func(n node) {
		config := n.config(serve(n.T, "old", "127.0.0.1:7071").listener)
		first, err := Open(n.Context(), config)
		must(n.T, err)
		must(n.T, first.Assign(n.hello))
		must(n.T, first.Assign(n.other))
		must(n.T, first.Close())
		mustAnswer(n.T, "old", n.hello, 80)
		n.openOwner(serve(n.T, "new", "127.0.0.1:7072").listener)
		mustAnswer(n.T, "new", n.hello, 80)
		mustAnswer(n.T, "new", n.other, 80)
	})
}

// Of an earlier range nothing stays, neither its route nor its addresses.
func TestRangeCanBeChanged(t *testing.T) {
	eachNode(t, func(n node) {
		former, addr := netip.MustParsePrefix("10.99.0.0/16"), netip.MustParseAddr("10.99.0.1")
		if n.hello.Is6() {
			former, addr = netip.MustParsePrefix("fd10:99::/64"), netip.MustParseAddr("fd10:99::1")
		}
		agent := serve(n.T, "agent", "127.0.0.1:7071")
		config := n.config(agent.listener)
		config.CIDRs = []netip.Prefix{former}
		first, err := Open(n.Context(), config)
		must(n.T, err)
		must(n.T, first.Assign(addr))
		mustAnswer(n.T, "agent", addr, 80)
		must(n.T, first.Close())
		owner := n.openOwner(agent.listener)
		addrs, err := owner.Assigned()
		must(n.T, err)
		if len(addrs) != 0 {
			n.Errorf("still assigned: %v", addrs)
		}
		if answer, err := call(netip.AddrPortFrom(addr, 7071).String(), soon); err == nil {
			n.Errorf("%v answers %q", addr, answer)
		}
	})
}

// Of the other way nothing stays either, and at no moment does a stranger answer.
func TestWayCanBeChanged(t *testing.T) {
	eachNode(t, func(n node) {
		serve(n.T, "wildcard", "[::]:10250")
		agent := serve(n.T, "agent", "127.0.0.1:7071")
		former := n.config(agent.listener)
		former.Way = map[Way]Way{SkLookup: TProxy, TProxy: SkLookup}[n.way]
		first, err := Open(n.Context(), former)
		must(n.T, err)
		must(n.T, first.Assign(n.other))
		must(n.T, first.Close())
		owner := n.openOwner(agent.listener)
		mustDrop(n.T, n.other, 10250)
		must(n.T, owner.Assign(n.hello))
		mustAnswer(n.T, "agent", n.hello, 10250)
		_, err = os.Stat(pinDir(n.T))
		if pins := err == nil; pins != (n.way == SkLookup) {
			n.Errorf("pin folder: %v", err)
		}
		out, err := exec.CommandContext(n.Context(), "nft", "list", "tables").CombinedOutput()
		must(n.T, err)
		if table := strings.Contains(string(out), TableName); table != (n.way == TProxy) {
			n.Errorf("tables: %s", out)
		}
	})
}
