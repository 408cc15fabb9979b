package nodeagent

import (
	"context"
	"sync"
	"time"

	"sanfran.dev/nodeagent/container"
)

// What a pod uses at least. A parked one holds a few kilobytes of the agent and no
// processor; whoever reads measurements takes nothing at all for a failure to
// measure.
const (
	leastCPU    = time.Millisecond
	leastMemory = 16 << 10
)

// meter counts what a pod's containers use, over all of them: a sum that only
// grows, whatever containers come and go. It is safe for concurrent use, and its
// lock is never held while control groups are read: begin is on the path of a cold
// request.
type meter struct {
	since time.Time

	mu sync.Mutex
	// ended is what the containers used that are no more.
	ended time.Duration
	// running are the others, with what each was last seen to have used.
	running map[*instance]time.Duration
}

// measurement is what a pod uses.
type measurement struct {
	// cpu is processor time since the meter was made.
	cpu time.Duration
	// memory is bytes.
	memory int64
}

func newMeter(now time.Time) *meter {
	return &meter{since: now, running: map[*instance]time.Duration{}}
}

// begin counts an instance from now on.
func (m *meter) begin(i *instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.running[i] = 0
}

// end takes the last look at an instance that is about to be destroyed.
func (m *meter) end(ctx context.Context, i *instance) {
	used, err := i.used(context.WithoutCancel(ctx))
	m.mu.Lock()
	defer m.mu.Unlock()
	last, ok := m.running[i]
	if !ok {
		return
	}
	if err == nil {
		last = max(last, used.CPU)
	}
	m.ended += last
	delete(m.running, i)
}

// measure looks at what runs now.
func (m *meter) measure(ctx context.Context) measurement {
	m.mu.Lock()
	seen := make(map[*instance]container.Usage, len(m.running))
	for i := range m.running {
		seen[i] = container.Usage{}
	}
	m.mu.Unlock()
	var memory int64
	for i := range seen {
		// One that goes just now has no error that matters: end has its last.
		used, err := i.used(ctx)
		if err != nil {
			continue
		}
		seen[i] = used
		memory += used.WorkingSet
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	total := leastCPU + m.ended
	for i, last := range m.running {
		last = max(last, seen[i].CPU)
		m.running[i] = last
		total += last
	}
	return measurement{cpu: total, memory: max(memory, leastMemory)}
}

// used is what the container has used since it was warm.
func (i *instance) used(ctx context.Context) (container.Usage, error) {
	used, err := i.warm.container.Usage(ctx)
	used.CPU = max(used.CPU-i.warm.booted, 0)
	return used, err
}
