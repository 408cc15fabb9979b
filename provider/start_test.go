package provider

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

// known is how often Synced was called, and how many pods are assigned.
func (p *pool) known() (synced, assigned int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.synced), len(p.assigned)
}

// TestSyncedWaitsForHiccups: agents drop what the pool does not know when it is
// told that all is known.
func TestSyncedWaitsForHiccups(t *testing.T) {
	for _, c := range []struct {
		name     string
		refuse   time.Duration
		assigned int
	}{
		{"short", 3 * time.Second, 1},
		{"long", time.Hour, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			leases := newPool()
			leases.refuse = c.refuse
			inWorldOf(t, leases, []runtime.Object{code(), hello()}, func(w *world) {
				if synced, _ := w.pool.known(); synced != 0 {
					w.t.Error("the pool was told that all is known before it was")
				}
				time.Sleep(2*lookTime + retryLast)
				w.settle()
				if synced, assigned := w.pool.known(); synced != 1 || assigned != c.assigned {
					w.t.Errorf("synced %d times with %d pods assigned, want once with %d", synced, assigned, c.assigned)
				}
			})
		})
	}
}

// TestPodThatGoesDuringTheStart: nobody tells of its end, as the informer's
// handler is not there yet.
func TestPodThatGoesDuringTheStart(t *testing.T) {
	leases := newPool()
	cidr, err := newAddresses(netip.MustParsePrefix("10.245.0.0/16"), 0, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c := &podController{
		leases: leases, bundles: leases, addresses: addressPools{cidr}, objects: newClusterObjects(nil, time.Now), now: time.Now, log: slog.New(slog.DiscardHandler),
		records:  map[types.UID]*podRecord{},
		claims:   newClaims(),
		queue:    workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[types.UID]()),
		informer: cache.NewSharedIndexInformer(nil, &corev1.Pod{}, 0, cache.Indexers{byUID: func(obj any) ([]string, error) { return []string{string(obj.(*corev1.Pod).UID)}, nil }}),
	}
	defer c.queue.ShutDown()
	if err := c.informer.GetStore().Add(hello()); err != nil {
		t.Fatal(err)
	}
	c.begin()
	if err := c.informer.GetStore().Delete(hello()); err != nil {
		t.Fatal(err)
	}
	for c.queue.Len() > 0 {
		c.next(t.Context())
	}
	if len(leases.synced) != 1 {
		t.Errorf("synced %v: the pool waits for a pod that is gone", leases.synced)
	}
}

// TestPodDeletedWhileNobodySpokeForTheNode: the pool knows nothing of it, so
// nothing is to be waited for. Its agent drops it when it is told its pods.
func TestPodDeletedWhileNobodySpokeForTheNode(t *testing.T) {
	deletion := metav1.NewTime(time.Now().Add(time.Hour))
	old := hello(func(p *corev1.Pod) {
		p.Status.PodIP, p.Status.Phase, p.DeletionTimestamp = "10.245.9.9", corev1.PodRunning, &deletion
	})
	inWorld(t, []runtime.Object{code(), old}, func(w *world) {
		if w.get("hello") != nil {
			w.t.Error("the pod is still there")
		}
		if synced, assigned := w.pool.known(); synced != 1 || assigned != 0 {
			w.t.Errorf("synced %d times with %d pods assigned", synced, assigned)
		}
	})
}
