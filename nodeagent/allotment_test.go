package nodeagent

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sanfran.dev/nodeagent/container"
)

// sizedContainer uses as much memory as it is said to.
type sizedContainer struct {
	container.Container // the rest is not called
	mu                  sync.Mutex
	used                int64
	limits              container.Resources
	err                 error
}

func (c *sizedContainer) MemoryInUse(context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used, c.err
}

func (c *sizedContainer) SetResources(_ context.Context, r container.Resources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limits.MemoryRequestBytes = r.MemoryRequestBytes // 0 is a value, too
	if r.MemoryBytes > 0 {
		c.limits.MemoryBytes = r.MemoryBytes
	}
	if r.MilliCPU > 0 {
		c.limits.MilliCPU, c.limits.MilliCPURequest = r.MilliCPU, r.MilliCPURequest
	}
	return c.err
}

func sizedInstance(used int64) (*instance, *sizedContainer) {
	c := &sizedContainer{used: used}
	return newInstance(&warmContainer{container: c}, time.Now(), 0, nil), c
}

func TestContainersOfAPodShareItsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const mib = 1 << 20
		whole := container.Resources{MilliCPU: 500, MemoryBytes: 512 * mib, MemoryRequestBytes: 64 * mib}
		a := newAllotment(whole)
		first, firstC := sizedInstance(60 * mib)
		if got, err := a.join(t.Context(), first); err != nil || got != whole {
			t.Fatalf("alone: %+v, %v", got, err)
		}
		// The first drains; its successor has the rest.
		second, secondC := sizedInstance(300 * mib)
		want := whole
		want.MemoryBytes = (512 - 76) * mib
		want.MilliCPU = 450
		if got, err := a.join(t.Context(), second); err != nil || got != want {
			t.Fatalf("beside another: %+v, %v; want %+v", got, err, want)
		}
		if want := (container.Resources{MilliCPU: 50, MemoryBytes: 76 * mib}); firstC.limits != want {
			t.Errorf("the one that drains has %+v, want %+v", firstC.limits, want)
		}
		leave(t, a, first)
		if secondC.limits != whole {
			t.Errorf("alone again it has %+v, want %+v", secondC.limits, whole)
		}
		// A third would not have what the second needs: it waits until that is gone.
		third, _ := sizedInstance(0)
		joined := make(chan container.Resources)
		go func() {
			got, err := a.join(t.Context(), third)
			if err != nil {
				t.Error(err)
			}
			joined <- got
		}()
		synctest.Wait()
		// Nobody serves beside it: it may end as fast as the pod may run.
		if want := (container.Resources{MilliCPU: 500, MemoryBytes: 316 * mib}); secondC.limits != want {
			t.Errorf("the second has %+v, want %+v", secondC.limits, want)
		}
		select {
		case got := <-joined:
			t.Fatalf("a third has %+v", got)
		default:
		}
		leave(t, a, second)
		if got := <-joined; got != whole {
			t.Errorf("the third, alone: %+v", got)
		}
		leave(t, a, third)
		if len(a.parts) != 0 {
			t.Errorf("left: %v", a.parts)
		}
	})
}

// TestContainersOfAPodShareItsProcessorTime: however many drain, they have a tenth
// together, and all of them with the one that serves no more than the pod.
func TestContainersOfAPodShareItsProcessorTime(t *testing.T) {
	const mib = 1 << 20
	whole := container.Resources{MilliCPU: 1000, MilliCPURequest: 250, MemoryBytes: 4096 * mib}
	a := newAllotment(whole)
	var all []*instance
	var containers []*sizedContainer
	check := func(when string, want ...int64) {
		t.Helper()
		for n, want := range want {
			if got := containers[n].limits.MilliCPU; got != want {
				t.Errorf("%s: container %d has %d m, want %d", when, n, got, want)
			}
		}
	}
	join := func() {
		t.Helper()
		i, c := sizedInstance(40 * mib)
		limits, err := a.join(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		c.limits = limits // as whoever leases it does
		all, containers = append(all, i), append(containers, c)
	}
	join()
	check("alone", 1000)
	join()
	check("beside one", 100, 900)
	join()
	check("beside two", 50, 50, 900)
	leave(t, a, all[0])
	check("one of two is gone", 50, 50, 900)
	containers[1].err = container.ErrGone
	join()
	check("beside one, and one that is dead", 50, 50, 100, 900)
	leave(t, a, all[1])
	leave(t, a, all[2])
	if got := containers[3].limits; got != whole {
		t.Errorf("alone again: %+v, want %+v", got, whole)
	}

	// Parts are never less than the kernel takes.
	a = newAllotment(container.Resources{MilliCPU: 15, MemoryBytes: 512 * mib})
	all, containers = nil, nil
	join()
	join()
	check("a pod with hardly any", 10, 10)
	// The one that an earlier process held to its part is given all.
	i, c := sizedInstance(0)
	if err := newAllotment(whole).adopt(i); err != nil || c.limits != whole {
		t.Errorf("taken over: %+v %v", c.limits, err)
	}
}

func leave(t *testing.T, a *allotment, i *instance) {
	t.Helper()
	if err := a.leave(i); err != nil {
		t.Error(err)
	}
}

// A pod with little memory has one container at a time, and a container that is
// dead already is not waited for.
func TestASmallPodWaitsForItsContainer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAllotment(container.Resources{MemoryBytes: 96 << 20})
		first, firstC := sizedInstance(50 << 20)
		if _, err := a.join(t.Context(), first); err != nil {
			t.Fatal(err)
		}
		second, _ := sizedInstance(0)
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errQueueTimeout)
		defer cancel()
		if _, err := a.join(ctx, second); err == nil || refusal(err) != "QueueTimeout" {
			t.Errorf("beside another: %v", err)
		}
		firstC.mu.Lock()
		firstC.err = container.ErrGone
		firstC.mu.Unlock()
		if got, err := a.join(t.Context(), second); err != nil || got.MemoryBytes != 96<<20 {
			t.Errorf("beside a dead one: %+v, %v", got, err)
		}
	})
}

// The kernel of cgroup v1 refuses a limit for which it finds nothing to drop: the
// part stays as large as it was.
func TestAContainerThatCannotBeHeldKeepsItsPart(t *testing.T) {
	a := newAllotment(container.Resources{MemoryBytes: 512 << 20})
	first, firstC := sizedInstance(60 << 20)
	if _, err := a.join(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	second, _ := sizedInstance(0)
	refusing := &refusingContainer{firstC}
	first.warm.container = refusing
	if _, left, err := a.tryJoin(t.Context(), second); err != nil || left == nil {
		t.Errorf("%v: want to wait for the first", err)
	}
	if a.parts[first].memoryBytes != 512<<20 {
		t.Errorf("its part is %+v", a.parts[first])
	}
}

type refusingContainer struct{ *sizedContainer }

func (refusingContainer) SetResources(context.Context, container.Resources) error {
	return context.DeadlineExceeded // any error
}
