package nodeagent

import (
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// countedSocket counts how far it is given up.
type countedSocket struct{ closed, released atomic.Int32 }

func (s *countedSocket) File() *os.File       { return nil }
func (s *countedSocket) Addr() netip.AddrPort { return netip.AddrPort{} }
func (s *countedSocket) Close() error         { s.closed.Add(1); return nil }
func (s *countedSocket) Release() error       { s.released.Add(1); return nil }

func TestQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuarantine(time.Minute, 2, &keeper{})
		sockets := make([]*countedSocket, 4)
		for i := range sockets {
			sockets[i] = &countedSocket{}
		}
		check := func(what string, want ...int32) {
			t.Helper()
			synctest.Wait() // a timer's work may be under way
			for i, n := range want {
				if got := sockets[i].released.Load(); got != n {
					t.Errorf("%s: socket %d released %d times, want %d", what, i, got, n)
				}
			}
		}
		put := func(i int) {
			t.Helper()
			if err := q.put(sockets[i]); err != nil || sockets[i].closed.Load() != 1 {
				t.Fatalf("socket %d: closed %d times, %v", i, sockets[i].closed.Load(), err)
			}
		}
		put(0)
		<-time.After(30 * time.Second)
		put(1)
		check("both rest", 0, 0)
		<-time.After(31 * time.Second)
		check("the first has rested", 1, 0)
		put(2)
		put(3)
		check("too many rest", 1, 1, 0, 0)
		q.close()
		check("closed", 1, 1, 1, 1)
		late := &countedSocket{}
		if err := q.put(late); err != nil || late.released.Load() != 1 {
			t.Errorf("put after close: released %d times, %v", late.released.Load(), err)
		}
	})
}
