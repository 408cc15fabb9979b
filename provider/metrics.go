package provider

import (
	"context"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// resourceMetrics are the kubelet's /metrics/resource, which metrics-server reads
// for kubectl top and for autoscalers. Names, labels and times are a kubelet's.
func (u *usageReader) resourceMetrics(ctx context.Context) ([]*dto.MetricFamily, error) {
	now := u.read(ctx)
	cpu := family("container_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the container in core-seconds", dto.MetricType_COUNTER)
	memory := family("container_memory_working_set_bytes", "[STABLE] Current working set of the container in bytes", dto.MetricType_GAUGE)
	start := family("container_start_time_seconds", "[STABLE] Start time of the container since unix epoch in seconds", dto.MetricType_GAUGE)
	podCPU := family("pod_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the pod in core-seconds", dto.MetricType_COUNTER)
	podMemory := family("pod_memory_working_set_bytes", "[STABLE] Current working set of the pod in bytes", dto.MetricType_GAUGE)
	nodeCPU := family("node_cpu_usage_seconds_total", "[STABLE] Cumulative cpu time consumed by the node in core-seconds", dto.MetricType_COUNTER)
	nodeMemory := family("node_memory_working_set_bytes", "[STABLE] Current working set of the node in bytes", dto.MetricType_GAUGE)
	failed := family("resource_scrape_error", "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise", dto.MetricType_GAUGE)
	for _, p := range now.pods {
		pod := []*dto.LabelPair{label("namespace", p.pod.Namespace), label("pod", p.pod.Name)}
		container := append([]*dto.LabelPair{label("container", p.pod.Spec.Containers[0].Name)}, pod...)
		add(cpu, p.cpu.Seconds(), p.at, container)
		add(memory, float64(p.memory), p.at, container)
		add(start, float64(p.since.UnixNano())/1e9, time.Time{}, container)
		add(podCPU, p.cpu.Seconds(), p.at, pod)
		add(podMemory, float64(p.memory), p.at, pod)
	}
	add(nodeCPU, now.node.cpu.Seconds(), now.node.at, nil)
	add(nodeMemory, float64(now.node.memory), now.node.at, nil)
	incomplete := 0.
	if !now.complete {
		incomplete = 1
	}
	add(failed, incomplete, time.Time{}, nil)
	families := []*dto.MetricFamily{nodeCPU, nodeMemory, failed}
	if len(now.pods) > 0 { // a family without metrics cannot be written
		families = append(families, cpu, memory, start, podCPU, podMemory)
	}
	return families, nil
}

func family(name, help string, kind dto.MetricType) *dto.MetricFamily {
	return &dto.MetricFamily{Name: &name, Help: &help, Type: &kind}
}

func label(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// add adds a metric; at is the zero time for one that is of the moment it is read.
func add(f *dto.MetricFamily, value float64, at time.Time, labels []*dto.LabelPair) {
	m := &dto.Metric{Label: labels}
	if f.GetType() == dto.MetricType_COUNTER {
		m.Counter = &dto.Counter{Value: &value}
	} else {
		m.Gauge = &dto.Gauge{Value: &value}
	}
	if !at.IsZero() {
		m.TimestampMs = new(at.UnixMilli())
	}
	f.Metric = append(f.Metric, m)
}
