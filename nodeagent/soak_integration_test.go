//go:build integration

package nodeagent

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestSoak wakes and parks pods, again and again, each time in a fresh container.
// Whenever all of it is over the agent and its node hold exactly what they held at
// first: descriptors, goroutines, and all that look knows of (mounts, network
// namespaces and their links, control groups, nft rules, processes, files).
func TestSoak(t *testing.T) {
	cycles := 30
	if n := os.Getenv("SANFRAN_SOAK_CYCLES"); n != "" {
		var err error
		if cycles, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	a := startAgent(t, func(c *Config) {
		shortLived(c)
		c.PoolTarget = 2
	})
	code := a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send('here')"})
	var pods []*agentv1.Assignment
	for n := range 4 {
		pod := assignment(fmt.Sprintf("soak-%d", n), fmt.Sprintf("10.245.9.%d", 1+n), code)
		pod.IdleTimeout = durationpb.New(20 * time.Millisecond)
		a.cp.assign(pod)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
		pods = append(pods, pod)
	}
	parked := func(pod *agentv1.Assignment) bool { return a.pods.get(pod.GetPodUid()).status().State == Parked }
	cycle := func(times int) {
		var all sync.WaitGroup
		for n, pod := range pods {
			all.Go(func() {
				for i := n; i < times && !t.Failed(); i += len(pods) {
					if got := get(t.Context(), "http://"+pod.GetAddress()+":8080/"); got.err != nil || got.code != 200 || got.body != "here" {
						t.Errorf("cycle %d: %d %q %v", i, got.code, got.body, got.err)
					}
					for deadline := time.Now().Add(patience); !parked(pod); {
						if time.Now().After(deadline) {
							t.Errorf("cycle %d: the pod is not parked", i)
							return
						}
						<-time.After(time.Millisecond)
					}
				}
			})
		}
		all.Wait()
	}
	atRest := func() bool {
		pool := a.warmers.Status()[0]
		return pool.Warm == 2 && pool.Warming+pool.Leased+pool.Draining == 0
	}
	cycle(2 * len(pods)) // what is made once, such as a compile cache, is there then
	eventually(t, "a full pool", atRest)
	before := a.holds(t)
	rested, start := a.quarantine.count(), time.Now()
	cycle(cycles)
	took := time.Since(start)
	// What is on its way to its end, such as a closed connection's goroutine, is no
	// growth; what is there for good is.
	var diff string
	for deadline := time.Now().Add(patience / 3); ; {
		eventually(t, "a full pool", atRest)
		if diff = gocmp.Diff(before, a.holds(t)); diff == "" || time.Now().After(deadline) {
			break
		}
		<-time.After(100 * time.Millisecond)
	}
	if diff != "" {
		t.Errorf("after %d cycles (-before +after):\n%s", cycles, diff)
		_ = pprof.Lookup("goroutine").WriteTo(t.Output(), 1)
	}
	// A call may be served by the container that is just being parked.
	leases := a.quarantine.count() - rested
	if leases < cycles*9/10 {
		t.Errorf("only %d containers were leased in %d cycles", leases, cycles)
	}
	t.Logf("%d cycles with %d containers in %v, %.0f a minute; before and after: %s", cycles, leases, took, float64(cycles)/took.Minutes(), counts(before))
}

// holds is how the node looks, and what the agent's process has open.
func (a *realAgent) holds(t *testing.T) nodeLooks {
	t.Helper()
	runtime.GC()
	l := look(t, a.cfg)
	// What lies there for the next agent is written when it pleases.
	l["files"] = slices.DeleteFunc(l["files"], func(file string) bool { return strings.Contains(file, "snapshot") })
	l.add("goroutines", fmt.Sprint(runtime.NumGoroutine()))
	kinds := map[string]int{"socket": -a.quarantine.count()} // the port of every ended lease is withheld for ten minutes
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		what, err := os.Readlink(fd)
		if err != nil {
			continue // that of the folder itself
		}
		kind, _, _ := strings.Cut(what, ":[")
		kinds[kind]++
	}
	for kind, n := range kinds {
		kind = containerID.ReplaceAllString(strings.ReplaceAll(kind, filepath.Base(a.cfg.WorkDir), "DIR"), "sf-ID")
		l.add("descriptors", fmt.Sprintf("%d of %s", n, kind))
	}
	slices.Sort(l["descriptors"])
	return l
}

func counts(l nodeLooks) string {
	var all []string
	for kind, lines := range l {
		all = append(all, fmt.Sprintf("%d %s", len(lines), kind))
	}
	slices.Sort(all)
	return strings.Join(all, ", ") + "; goroutines: " + strings.Join(l["goroutines"], "") + "; " + strings.Join(l["descriptors"], ", ")
}
