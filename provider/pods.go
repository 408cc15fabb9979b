package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

const (
	// podWorkers reconcile at once; each spends its time waiting for the API.
	podWorkers = 32
	// A pod that cannot be made yet is tried again after retryFirst, twice that,
	// … and at last every retryLast: what it misses can come at any time, and
	// the node may not watch what its pods do not name.
	retryFirst = 200 * time.Millisecond
	retryLast  = 10 * time.Second
	// settleTime is how long a pod that was Ready when the provider started is
	// believed to be so while its agent has not reported. Without it every
	// start would empty the Services of pods that serve all the while.
	settleTime = 30 * time.Second
	// lookTime is how long a pod of the start is tried before the pool is told
	// that all are known though this one is not. Agents drop what is not known,
	// so a hiccup of the API must not be enough; but one pod that cannot be read
	// must not keep all others waiting either.
	lookTime = 5 * time.Second
	// byUID is the informer's index.
	byUID = "uid"
)

// podController keeps every pod of the node and its lease the same. It works by
// UID: a pod that is made again under the same name is another one. One worker
// has a UID at a time.
type podController struct {
	client   kubernetes.Interface
	nodeName string
	// account reads namespaces, which a node may not.
	account kubernetes.Interface
	// hostIP is the node's InternalIP.
	hostIP      string
	idleTimeout time.Duration
	leases      Leases
	bundles     Bundles
	objects     *clusterObjects
	addresses   addressPools
	policies    *policies
	events      record.EventRecorder
	// facts tells what every pod gets of the cluster.
	facts func(ctx context.Context) (*clusterFacts, error)
	now   func() time.Time
	log   *slog.Logger

	queue    workqueue.TypedRateLimitingInterface[types.UID]
	informer cache.SharedIndexInformer
	// namespaceStore has every namespace, trimmed.
	namespaceStore cache.Store
	claims         *claims
	// synced says that informer is set and holds the first list.
	synced atomic.Bool

	mu      sync.Mutex
	records map[types.UID]*podRecord
	// first are the pods of the start that have not been decided on; nil after
	// Leases.Synced was called.
	first map[types.UID]bool
}

// podRecord is what is remembered of a pod between looks. Only the worker that
// has the UID uses its fields.
type podRecord struct {
	// inputs tell which pod the assignment was made of; empty before there is one.
	inputs string
	// route is the provider's part of the route that the pool was given; not to be
	// changed. clash is whose name the pod was told it has taken.
	route *routesv1.Route
	clash string
	// assignment is the last that the pool was given; not to be changed.
	assignment *agentv1.Assignment
	// refresh is when a token of the assignment should be replaced; zero: never.
	refresh time.Time
	// withdrawn is the deletion time the pod was withdrawn for.
	withdrawn time.Time
	// told is the last warning, so that retries do not repeat it.
	told string
	// written is what the last write returned, until the informer has seen it.
	written *corev1.Pod
	// until is set for pods that were Ready at the start; see settleTime.
	until time.Time
	// failing is when an attempt first failed.
	failing time.Time
	// ended says that the final status was written.
	ended bool
}

// run serves pods until ctx ends.
func (c *podController) run(ctx context.Context) error {
	c.records = map[types.UID]*podRecord{}
	c.claims = newClaims()
	c.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](retryFirst, retryLast))
	defer c.queue.ShutDown()
	factory := informers.NewSharedInformerFactoryWithOptions(c.client, 0,
		informers.WithTransform(trimPod),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", c.nodeName).String()
		}))
	c.informer = factory.Core().V1().Pods().Informer()
	if err := c.informer.AddIndexers(cache.Indexers{byUID: func(obj any) ([]string, error) {
		return []string{string(obj.(*corev1.Pod).UID)}, nil
	}}); err != nil {
		return fmt.Errorf("index pods by UID: %w", err)
	}
	all := informers.NewSharedInformerFactoryWithOptions(c.account, 0, informers.WithTransform(trimNamespace))
	namespaces := all.Core().V1().Namespaces().Informer()
	c.namespaceStore = namespaces.GetStore()
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	all.StartWithContext(ctx)
	defer all.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), c.informer.HasSynced, namespaces.HasSynced) {
		return context.Cause(ctx)
	}
	c.synced.Store(true)
	c.begin()
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { c.queue.Add(obj.(*corev1.Pod).UID) },
		UpdateFunc: func(old, obj any) {
			// One update may stand for the end of one pod and the birth of
			// another of the same name.
			if o := old.(*corev1.Pod); o.UID != obj.(*corev1.Pod).UID {
				c.queue.Add(o.UID)
			}
			c.queue.Add(obj.(*corev1.Pod).UID)
		},
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if pod, ok := obj.(*corev1.Pod); ok {
				c.queue.Add(pod.UID)
			}
		},
	}
	if _, err := c.informer.AddEventHandler(handler); err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	if _, err := namespaces.AddEventHandler(c.namespaceHandler()); err != nil {
		return fmt.Errorf("watch namespaces: %w", err)
	}
	c.leases.Subscribe(func(uid string) { c.queue.Add(types.UID(uid)) })

	var workers sync.WaitGroup
	for range podWorkers {
		workers.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	workers.Wait()
	return nil
}

// trimPod drops what nobody reads, before the informer keeps it.
func trimPod(obj any) (any, error) {
	if pod, ok := obj.(*corev1.Pod); ok {
		pod.ManagedFields = nil
	}
	return obj, nil
}

// begin takes over the pods that are there: they keep their addresses.
func (c *podController) begin() {
	pods := c.pods()
	c.mu.Lock()
	c.first = make(map[types.UID]bool, len(pods))
	for _, pod := range pods {
		c.first[pod.UID] = true
	}
	c.mu.Unlock()
	for _, pod := range pods {
		// One that is deleted before the handler is there is not told by it.
		c.queue.Add(pod.UID)
		if ready := condition(&pod.Status, corev1.PodReady); ready != nil && ready.Status == corev1.ConditionTrue {
			c.record(pod.UID).until = c.now().Add(settleTime)
		}
		if pod.Status.PodIP == "" {
			continue
		}
		if refused := c.addresses.keep(string(pod.UID), addressesOf(pod)); len(refused) > 0 {
			c.log.Warn("a pod's address is not of the pod CIDR or another pod's; it gets a new one", "pod", podKey(pod), "addresses", refused)
		}
	}
	c.looked("")
}

// ofNamespace are the node's pods of a namespace; none before the first list.
func (c *podController) ofNamespace(namespace string) (pods []*corev1.Pod) {
	for _, pod := range c.known() {
		if pod.Namespace == namespace {
			pods = append(pods, pod)
		}
	}
	return pods
}

// addressesOf are the addresses that a pod's status tells of.
func addressesOf(pod *corev1.Pod) (addrs []netip.Addr) {
	ips := pod.Status.PodIPs
	if len(ips) == 0 {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// looked notes that a pod of the start has been decided on. After the last one
// the pool learns that everything is known.
func (c *podController) looked(uid types.UID) {
	c.mu.Lock()
	done := c.first != nil
	if done {
		delete(c.first, uid)
		if done = len(c.first) == 0; done {
			c.first = nil
		}
	}
	c.mu.Unlock()
	if !done {
		return
	}
	pods := c.pods()
	uids := make([]string, 0, len(pods))
	for _, pod := range pods {
		uids = append(uids, string(pod.UID))
	}
	c.leases.Synced(uids)
	c.log.Info("every pod of the node is known", "pods", len(uids))
}

// pods are all pods of the node; not to be changed.
func (c *podController) pods() []*corev1.Pod {
	list := c.informer.GetStore().List()
	pods := make([]*corev1.Pod, 0, len(list))
	for _, obj := range list {
		pods = append(pods, obj.(*corev1.Pod))
	}
	return pods
}

// known are all pods of the node; none before the first list.
func (c *podController) known() []*corev1.Pod {
	if !c.synced.Load() {
		return nil
	}
	return c.pods()
}

// pod is the one of that UID, or nil; not to be changed.
func (c *podController) pod(uid types.UID) *corev1.Pod {
	found, err := c.informer.GetIndexer().ByIndex(byUID, string(uid))
	if err != nil || len(found) == 0 {
		return nil
	}
	return found[0].(*corev1.Pod)
}

func (c *podController) next(ctx context.Context) bool {
	uid, quit := c.queue.Get()
	if quit {
		return false
	}
	defer c.queue.Done(uid)
	again, err := c.reconcile(ctx, uid)
	if c.decided(uid, err) {
		c.looked(uid)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.log.Debug("a pod is tried again", "uid", uid, "error", err)
		c.queue.AddRateLimited(uid)
	default:
		c.queue.Forget(uid)
		if again > 0 {
			c.queue.AddAfter(uid, again)
		}
	}
	return true
}

// decided says whether a pod was assigned or found not to be assignable, by the
// error that the attempt ended with. Only the worker that has the UID calls it.
func (c *podController) decided(uid types.UID, err error) bool {
	var bad *Unsupported
	if err == nil || errors.Is(err, errMissing) || errors.Is(err, ErrNoAddress) || errors.As(err, &bad) {
		return true
	}
	r := c.record(uid)
	if r.failing.IsZero() {
		r.failing = c.now()
	}
	return c.now().Sub(r.failing) >= lookTime
}

func (c *podController) record(uid types.UID) *podRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.records[uid]
	if r == nil {
		r = &podRecord{}
		c.records[uid] = r
	}
	return r
}

// forget drops everything of a pod that is gone from Kubernetes and the pool.
func (c *podController) forget(uid types.UID) {
	c.addresses.release(string(uid))
	c.objects.forget(uid)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.records, uid)
}

func podKey(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }
