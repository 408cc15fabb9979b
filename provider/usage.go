package provider

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsv1alpha1 "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// Meter measures what agents and their pods use.
type Meter interface {
	// Measure returns what agents say, by node; the error is of those that do not
	// answer.
	Measure(ctx context.Context) (map[string][]*streamsv1.Usage, error)
}

// usage is what the virtual node and its pods use, at one moment.
type usage struct {
	at    time.Time
	since time.Time // of the node's processor time
	node  consumption
	pods  []podConsumption // by namespace and name
	// complete: every agent has answered.
	complete bool
}

type consumption struct {
	at     time.Time
	cpu    time.Duration
	memory uint64
}

type podConsumption struct {
	pod *corev1.Pod
	consumption
	since time.Time
}

// usageReader asks for measurements, and makes of them what a kubelet reports. It is
// safe for concurrent use.
type usageReader struct {
	pods  func() []*corev1.Pod
	meter Meter
	node  string
	since time.Time
	log   *slog.Logger

	mu sync.Mutex
	// last is each agent's processor time as it was last seen, and before what
	// agents had used before they began to count anew: so the node's sum only
	// grows, also while an agent is away.
	last   map[string]time.Duration
	before time.Duration
}

// leastNodeCPU and leastNodeMemory are what the node uses at least: a reader takes
// nothing at all for a failure to measure.
const (
	leastNodeCPU    = time.Millisecond
	leastNodeMemory = 1 << 20
)

func (u *usageReader) read(ctx context.Context) *usage {
	said, err := u.meter.Measure(ctx)
	if err != nil {
		u.log.Warn("not every agent says what its pods use", "error", err)
	}
	now := time.Now()
	result := &usage{at: now, since: u.since, complete: err == nil}
	byUID := map[string]*corev1.Pod{}
	for _, pod := range u.pods() {
		byUID[string(pod.UID)] = pod
	}
	result.node = consumption{at: now, cpu: u.nodeCPU(said), memory: leastNodeMemory}
	for _, messages := range said {
		for _, m := range messages {
			result.node.memory += m.GetNode().GetMemoryBytes()
			for _, p := range m.GetPods() {
				pod := byUID[p.GetPodUid()]
				if pod == nil || p.GetCpuNanoseconds() == 0 || p.GetMemoryBytes() == 0 {
					continue
				}
				// While a pod moves two agents may know it: one of them is enough.
				delete(byUID, p.GetPodUid())
				result.pods = append(result.pods, podConsumption{
					pod: pod, since: p.GetStartedAt().AsTime(),
					consumption: consumption{at: m.GetAt().AsTime(), cpu: time.Duration(p.GetCpuNanoseconds()), memory: p.GetMemoryBytes()},
				})
			}
		}
	}
	slices.SortFunc(result.pods, func(a, b podConsumption) int {
		if podKey(a.pod) < podKey(b.pod) {
			return -1
		}
		return 1
	})
	return result
}

// nodeCPU is the sum of all agents' processor time.
func (u *usageReader) nodeCPU(said map[string][]*streamsv1.Usage) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[string]time.Duration{}
	}
	for _, node := range slices.Sorted(maps.Keys(said)) {
		for _, m := range said[node] {
			if m.GetNode() == nil {
				continue
			}
			now := time.Duration(m.GetNode().GetCpuNanoseconds())
			if now < u.last[node] {
				u.before += u.last[node]
			}
			u.last[node] = now
		}
	}
	total := leastNodeCPU + u.before
	for _, cpu := range u.last {
		total += cpu
	}
	return total
}

// summary is the kubelet's /stats/summary, the parts of it that are measured.
func (u *usageReader) summary(ctx context.Context) (*statsv1alpha1.Summary, error) {
	now := u.read(ctx)
	summary := &statsv1alpha1.Summary{Node: statsv1alpha1.NodeStats{
		NodeName: u.node, StartTime: metav1.NewTime(now.since), CPU: now.node.cpuStats(), Memory: now.node.memoryStats(),
	}, Pods: []statsv1alpha1.PodStats{}}
	for _, p := range now.pods {
		since := metav1.NewTime(p.since)
		summary.Pods = append(summary.Pods, statsv1alpha1.PodStats{
			PodRef:    statsv1alpha1.PodReference{Name: p.pod.Name, Namespace: p.pod.Namespace, UID: string(p.pod.UID)},
			StartTime: since, CPU: p.cpuStats(), Memory: p.memoryStats(),
			Containers: []statsv1alpha1.ContainerStats{{Name: p.pod.Spec.Containers[0].Name, StartTime: since, CPU: p.cpuStats(), Memory: p.memoryStats()}},
		})
	}
	return summary, nil
}

func (c consumption) cpuStats() *statsv1alpha1.CPUStats {
	return &statsv1alpha1.CPUStats{Time: metav1.NewTime(c.at), UsageCoreNanoSeconds: new(uint64(c.cpu))}
}

func (c consumption) memoryStats() *statsv1alpha1.MemoryStats {
	return &statsv1alpha1.MemoryStats{Time: metav1.NewTime(c.at), WorkingSetBytes: new(c.memory)}
}
