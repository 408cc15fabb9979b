package provider

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// fakeMeter is what agents say; nil: none does.
type fakeMeter func() (map[string][]*streamsv1.Usage, error)

func (f fakeMeter) Measure(context.Context) (map[string][]*streamsv1.Usage, error) {
	if f == nil {
		return nil, nil
	}
	return f()
}

var measuredAt = timestamppb.New(time.UnixMilli(1_800_000_000_123))

func said(nodeCPU time.Duration, pods ...*streamsv1.PodUsage) []*streamsv1.Usage {
	return []*streamsv1.Usage{
		{At: measuredAt, Node: &streamsv1.NodeUsage{CpuNanoseconds: uint64(nodeCPU), MemoryBytes: 100 << 20}},
		{At: measuredAt, Pods: pods},
	}
}

func podUsage(uid string, cpu time.Duration, memory uint64) *streamsv1.PodUsage {
	return &streamsv1.PodUsage{PodUid: uid, CpuNanoseconds: uint64(cpu), MemoryBytes: memory, StartedAt: timestamppb.New(time.UnixMilli(1_700_000_000_500))}
}

func named(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Name, pod.UID = name, types.UID("uid-"+name) }
}

func newUsageReader(meter fakeMeter, pods ...*corev1.Pod) *usageReader {
	return &usageReader{pods: func() []*corev1.Pod { return pods }, meter: meter, node: "sanfran", since: time.UnixMilli(1_600_000_000_000), log: slog.New(slog.DiscardHandler)}
}

// What metrics-server reads, as a kubelet writes it.
func TestResourceMetricsAreAKubelets(t *testing.T) {
	u := newUsageReader(func() (map[string][]*streamsv1.Usage, error) {
		return map[string][]*streamsv1.Usage{
			"n1": said(3*time.Second, podUsage("uid-b", 1500*time.Millisecond, 50<<20), podUsage("nobody's", time.Second, 1)),
			"n2": said(4*time.Second, podUsage("uid-a", time.Millisecond, 16<<10), podUsage("uid-zero", 0, 0)),
		}, nil
	}, hello(named("b")), hello(named("a")), hello(named("zero")), hello(named("unknown")))
	server := startKubelet(t, kubeletAPI{pods: u.pods, usage: u})
	code, body := ask(t, server.URL+"/metrics/resource")
	var got []string
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "node_") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	want := []string{
		`resource_scrape_error 0`,
		`container_cpu_usage_seconds_total{container="hello",namespace="default",pod="a"} 0.001 1800000000123`,
		`container_cpu_usage_seconds_total{container="hello",namespace="default",pod="b"} 1.5 1800000000123`,
		`container_memory_working_set_bytes{container="hello",namespace="default",pod="a"} 16384 1800000000123`,
		`container_memory_working_set_bytes{container="hello",namespace="default",pod="b"} 5.24288e+07 1800000000123`,
		`container_start_time_seconds{container="hello",namespace="default",pod="a"} 1.7000000005e+09`,
		`container_start_time_seconds{container="hello",namespace="default",pod="b"} 1.7000000005e+09`,
		`pod_cpu_usage_seconds_total{namespace="default",pod="a"} 0.001 1800000000123`,
		`pod_cpu_usage_seconds_total{namespace="default",pod="b"} 1.5 1800000000123`,
		`pod_memory_working_set_bytes{namespace="default",pod="a"} 16384 1800000000123`,
		`pod_memory_working_set_bytes{namespace="default",pod="b"} 5.24288e+07 1800000000123`,
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") || code != 200 {
		t.Errorf("%d\n%s\nwant\n%s", code, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(body, "\nnode_cpu_usage_seconds_total 7.001 ") || !strings.Contains(body, "\nnode_memory_working_set_bytes 2.10763776e+08 ") {
		t.Errorf("of the node:\n%s", body)
	}

	code, body = ask(t, server.URL+"/stats/summary")
	var summary statsv1alpha1.Summary
	if err := json.Unmarshal([]byte(body), &summary); err != nil || code != 200 {
		t.Fatalf("%d %v\n%s", code, err, body)
	}
	if len(summary.Pods) != 2 || summary.Node.NodeName != "sanfran" || *summary.Node.CPU.UsageCoreNanoSeconds != 7_001_000_000 {
		t.Fatalf("%s", body)
	}
	b := summary.Pods[1]
	if b.PodRef != (statsv1alpha1.PodReference{Name: "b", Namespace: "default", UID: "uid-b"}) || len(b.Containers) != 1 || b.Containers[0].Name != "hello" ||
		*b.Containers[0].CPU.UsageCoreNanoSeconds != 1_500_000_000 || *b.Containers[0].Memory.WorkingSetBytes != 50<<20 || *b.Memory.WorkingSetBytes != 50<<20 {
		t.Errorf("%+v", b)
	}
}

// An agent that is away or begins to count anew takes nothing from the node's sum,
// and without any agent the node is not nothing.
func TestTheNodesProcessorTimeOnlyGrows(t *testing.T) {
	var answer map[string][]*streamsv1.Usage
	var away error
	u := newUsageReader(func() (map[string][]*streamsv1.Usage, error) { return answer, away })
	for _, step := range []struct {
		answer map[string][]*streamsv1.Usage
		away   error
		want   time.Duration
	}{
		{nil, nil, 0},
		{map[string][]*streamsv1.Usage{"n1": said(10), "n2": said(5)}, nil, 15},
		{map[string][]*streamsv1.Usage{"n1": said(12)}, errors.New("n2 is away"), 17},
		{map[string][]*streamsv1.Usage{"n1": said(3), "n2": said(5)}, nil, 20},
		{map[string][]*streamsv1.Usage{"n1": said(4), "n2": said(6)}, nil, 22},
	} {
		answer, away = step.answer, step.away
		if got := u.read(t.Context()); got.node.cpu != leastNodeCPU+step.want || got.complete != (away == nil) || got.node.memory == 0 {
			t.Errorf("%+v, want cpu %d more than %d", got, step.want, leastNodeCPU)
		}
	}
}
