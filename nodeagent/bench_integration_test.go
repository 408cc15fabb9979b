//go:build integration

package nodeagent

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// BenchmarkColdActivation measures a cold request at the agent, from the
// request for a parked pod to the first byte of its answer, with a full pool
// and a container of its own for each. -benchtime 30x gives quantiles that mean
// something.
func BenchmarkColdActivation(b *testing.B) {
	a := startAgent(b, func(c *Config) {
		c.PoolTarget = 4
		c.Log = slog.New(slog.DiscardHandler)
	})
	digest := a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send(`Hello ${req.query.name || 'World'}`)"})
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
		code, body, _ := a.viaData(b, pod, "/?name=Vik")
		times = append(times, time.Since(begun))
		b.StopTimer()
		if code != 200 || body != "Hello Vik" {
			b.Fatalf("%d %q", code, body)
		}
		a.cp.withdraw(pod, time.Second)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
		b.StartTimer()
	}
	slices.Sort(times)
	b.ReportMetric(ms(times[len(times)/2]), "p50-ms")
	b.ReportMetric(ms(times[len(times)*99/100]), "p99-ms")
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkCompileCache measures how long a function of 1,000 modules loads for
// the first time in a namespace, and then with what V8 compiled then. Each turn
// has a namespace of its own. The median of the first must be well above that of
// the second; on a quiet machine it is twice as much.
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
	if without < with*3/2 {
		b.Errorf("1,000 modules load in %v the first time and in %v the second", without, with)
	}
}
