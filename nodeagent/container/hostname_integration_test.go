//go:build integration

package container_test

import (
	"os"
	"sync"
	"testing"
	"time"
)

// TestHostnameOfARunningContainer changes the names of several containers at
// once: each has its own, and the agent keeps the machine's.
func TestHostnameOfARunningContainer(t *testing.T) { eachRuntime(t, hostnameOfARunningContainer) }

func hostnameOfARunningContainer(t *testing.T, h *host) {
	machine, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	servers := map[string]*server{}
	for _, id := range []string{"one", "two"} {
		servers[id] = h.serve(t, id, nil)
		servers[id].expect(`return require("os").hostname()`, "warm-"+id)
	}
	var all sync.WaitGroup
	for id, s := range servers {
		all.Go(func() {
			for range 50 {
				began := time.Now()
				if err := s.SetHostname(t.Context(), "pod-"+id); err != nil {
					t.Errorf("SetHostname: %v", err)
				}
				t.Logf("SetHostname took %v", time.Since(began))
			}
		})
	}
	all.Wait()
	for id, s := range servers {
		s.expect(`return require("os").hostname() + " " + require("child_process").execFileSync("/usr/bin/busybox", ["hostname"])`, "pod-"+id+" pod-"+id+"\n")
		if err := s.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	for range 100 {
		if now, err := os.Hostname(); now != machine {
			t.Fatalf("the machine is called %q now, was %q (%v)", now, machine, err)
		}
	}
}
