//go:build integration

package nodeagent

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// BenchmarkColdActivation measures a cold request at the agent, from the
// request for a parked pod to the end of its answer, with a full pool and a
// container of its own for each; the connection is kept, as gateways keep theirs. -benchtime 30x gives quantiles that mean
// something.
func BenchmarkColdActivation(b *testing.B) {
	a := startAgent(b, func(c *Config) {
		c.PoolTarget = 4
		c.RouteSettle, c.EndpointSettle = 10*time.Millisecond, -1 // for the turns to be short: nobody holds routes
		c.Log = slog.New(slog.DiscardHandler)
	})
	digest := a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send(`Hello ${req.query.name || 'World'}`)"})
	gateway := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer gateway.CloseIdleConnections()
	var times []time.Duration
	for b.Loop() {
		b.StopTimer()
		pod := assignment(fmt.Sprintf("cold-%d", len(times)), fmt.Sprintf("10.245.4.%d", len(times)%250+1), digest)
		pod.PodUid = fmt.Sprintf("%s-%d", pod.GetPodUid(), b.N)
		pod.StartParked = true
		pod.IdleTimeout = durationpb.New(time.Hour)
		a.cp.assign(pod)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
		a.cp.wait("a full pool", func() bool {
			p := a.cp.pools["node24"]
			return p.GetWarm() == 4 && p.GetWarming()+p.GetLeased()+p.GetDraining() == 0
		})
		b.StartTimer()
		begun := time.Now()
		got := getWith(b.Context(), gateway, "http://"+a.cfg.dataAddress()+"/?name=Vik", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
		times = append(times, time.Since(begun))
		b.StopTimer()
		if got.err != nil || got.code != 200 || got.body != "Hello Vik" {
			b.Fatalf("%d %q %v", got.code, got.body, got.err)
		}
		a.cp.withdraw(pod, time.Second)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
		b.StartTimer()
	}
	slices.Sort(times)
	b.ReportMetric(ms(times[len(times)/2]), "p50-ms")
	b.ReportMetric(ms(times[len(times)*99/100]), "p99-ms")
}

// BenchmarkContainerStarts measures how many containers the pool starts when each
// is taken and destroyed at once, and what one costs the machine in processor time,
// the kernel's and the OCI runtime's included.
func BenchmarkContainerStarts(b *testing.B) {
	cores := runtime.GOMAXPROCS(0)
	a := startAgent(b, func(c *Config) {
		c.PoolTarget = cores
		c.Log = slog.New(slog.DiscardHandler)
	})
	busy, own := busyTime(b), ownTime(b)
	begun := time.Now()
	var left atomic.Int64
	left.Store(int64(b.N))
	var takers sync.WaitGroup
	for range cores {
		takers.Go(func() {
			for left.Add(-1) >= 0 {
				w, err := a.warmers.Acquire(b.Context(), "node24")
				if err != nil {
					b.Error(err)
					return
				}
				if err := w.Destroy(b.Context()); err != nil {
					b.Error(err)
				}
				a.warmers.Done(w)
			}
		})
	}
	takers.Wait()
	took := time.Since(begun)
	b.ReportMetric(float64(b.N)/took.Seconds()/float64(cores), "starts/s/core")
	b.ReportMetric(ms(busyTime(b)-busy)/float64(b.N), "cpu-ms/start")
	b.ReportMetric(ms(ownTime(b)-own)/float64(b.N), "own-cpu-ms/start")
	b.ReportMetric(float64(a.warmers.Status()[0].StartFailures), "failures")
}

// ownTime is what the agent, the OCI runtime and the containers that are gone have
// used of the processors. Unlike busyTime it is not disturbed by what else the machine
// does, and leaves out what the kernel does on its own account.
func ownTime(b *testing.B) (sum time.Duration) {
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var used unix.Rusage
		if err := unix.Getrusage(who, &used); err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(used.Utime.Nano() + used.Stime.Nano())
	}
	return sum
}

// busyTime is how long this machine's processors have worked, on anything.
func busyTime(b *testing.B) time.Duration {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		b.Fatal(err)
	}
	var ticks int64
	for i, field := range strings.Fields(strings.SplitN(string(data), "\n", 2)[0]) {
		// "cpu", then user, nice, system, idle, iowait, irq, softirq; the rest is of
		// virtual machines. See proc_stat(5); a tick is 10 ms.
		if i == 0 || i == 4 || i == 5 || i > 7 {
			continue
		}
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			b.Fatalf("/proc/stat: %v", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BenchmarkWarmMemory measures what a warm container takes, where 20 of them share
// Node.js and the root filesystem: its proportional set size (PSS).
func BenchmarkWarmMemory(b *testing.B) {
	const containers = 20
	a := startAgent(b, func(c *Config) {
		c.PoolTarget = containers
		c.Log = slog.New(slog.DiscardHandler)
	})
	var sizes []float64
	for b.Loop() {
		sizes = sizes[:0]
		var taken []*warmContainer
		for range containers {
			w, err := a.warmers.Acquire(b.Context(), "node24")
			if err != nil {
				b.Fatal(err)
			}
			taken = append(taken, w)
		}
		for _, pid := range workerPIDs(b) {
			sizes = append(sizes, proportionalMiB(b, pid))
		}
		for _, w := range taken {
			if err := w.Destroy(b.Context()); err != nil {
				b.Fatal(err)
			}
			a.warmers.Done(w)
		}
	}
	slices.Sort(sizes)
	b.ReportMetric(sizes[len(sizes)/2], "MiB")
}

// workerPIDs are the processes of all containers on this machine, by their control
// groups: a warm worker has the title of a function's process already.
func workerPIDs(b *testing.B) (pids []string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	for _, e := range entries {
		groups, err := os.ReadFile("/proc/" + e.Name() + "/cgroup")
		if err == nil && strings.Contains(string(groups), "/functions/sf-") {
			pids = append(pids, e.Name())
		}
	}
	if len(pids) == 0 {
		b.Fatal("no process is in a container's control group")
	}
	return pids
}

var pssLine = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB$`)

func proportionalMiB(b *testing.B, pid string) float64 {
	data, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		b.Fatal(err)
	}
	found := pssLine.FindSubmatch(data)
	if found == nil {
		b.Fatalf("/proc/%s/smaps_rollup has no Pss: %s", pid, data)
	}
	kib, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkCompileCache measures how long a function of 1,000 modules loads for
// the first time in a namespace, and then with what V8 compiled then. Each turn
// has a namespace of its own. The median of the first must be well above that of
// the second; on a quiet machine it is three times as much.
func BenchmarkCompileCache(b *testing.B) {
	a := startAgent(b, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	digest := a.cp.bundle(thousandModules())
	var first, second []time.Duration
	for b.Loop() {
		turn := len(first)
		pod := assignment(fmt.Sprintf("large-%d", turn), fmt.Sprintf("10.245.4.%d", turn%250+1), digest)
		pod.PodUid, pod.Namespace = fmt.Sprintf("%s-%d", pod.GetPodUid(), b.N), fmt.Sprintf("namespace-%d-%d", turn, b.N)
		pod.IdleTimeout = durationpb.New(compileQuiet + 200*time.Millisecond)
		a.cp.assign(pod)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
		first = append(first, a.pods.get(pod.GetPodUid()).status().Instance.loaded)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
		if s := a.looked(b, pod); s.Files == 0 {
			b.Fatalf("no cache the second time: %+v", s)
		}
		second = append(second, a.pods.get(pod.GetPodUid()).status().Instance.loaded)
		a.cp.withdraw(pod, time.Second)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	}
	slices.Sort(first)
	slices.Sort(second)
	without, with := first[len(first)/2], second[len(second)/2]
	b.ReportMetric(ms(without), "first-ms")
	b.ReportMetric(ms(with), "second-ms")
	b.ReportMetric(without.Seconds()/with.Seconds(), "times-faster")
	if without < with*2 {
		b.Errorf("1,000 modules load in %v the first time and in %v the second", without, with)
	}
}
