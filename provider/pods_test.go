package provider

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// pool is Leases and Bundles from memory. A pod is ACTIVE as soon as it is
// assigned, and gone as soon as it is withdrawn, unless held.
type pool struct {
	mu        sync.Mutex
	assigned  map[string]*agentv1.Assignment
	routes    map[string]*routesv1.Route
	statuses  map[string]*agentv1.PodStatus
	withdrawn map[string][]time.Duration
	synced    [][]string
	bundles   map[string]bool
	initial   agentv1.PodState
	changed   func(string)
	hold      bool
	// refuse: no bundle is stored for so long from the first on.
	refuse time.Duration
	first  time.Time
}

func newPool() *pool {
	return &pool{
		assigned: map[string]*agentv1.Assignment{}, routes: map[string]*routesv1.Route{}, statuses: map[string]*agentv1.PodStatus{},
		withdrawn: map[string][]time.Duration{}, bundles: map[string]bool{}, initial: agentv1.PodState_POD_STATE_ACTIVE, changed: func(string) {},
	}
}

func (p *pool) Assign(_ context.Context, a *agentv1.Assignment, route *routesv1.Route) error {
	p.mu.Lock()
	p.assigned[a.PodUid], p.routes[a.PodUid] = a, route
	p.mu.Unlock()
	p.set(a.PodUid, &agentv1.PodStatus{PodUid: a.PodUid, State: p.initial})
	return nil
}

func (p *pool) Withdraw(_ context.Context, uid string, grace time.Duration) error {
	p.mu.Lock()
	p.withdrawn[uid] = append(p.withdrawn[uid], grace)
	hold := p.hold || p.statuses[uid] == nil
	p.mu.Unlock()
	if !hold {
		p.set(uid, nil)
	}
	return nil
}

func (p *pool) set(uid string, status *agentv1.PodStatus) {
	p.mu.Lock()
	if status == nil {
		delete(p.statuses, uid)
	} else {
		p.statuses[uid] = status
	}
	changed := p.changed
	p.mu.Unlock()
	changed(uid)
}

func (p *pool) Status(uid string) *agentv1.PodStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.statuses[uid]
}

func (p *pool) Subscribe(changed func(string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = changed
}

func (p *pool) Synced(uids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.synced = append(p.synced, uids)
}

func (p *pool) Capacity() (*agentv1.Capacity, <-chan struct{}) {
	return &agentv1.Capacity{MilliCpu: 2000, MemoryBytes: 1 << 30, Pods: 100}, nil
}

func (p *pool) Pools() map[string][]*agentv1.PoolStatus { return nil }

func (p *pool) Put(_ context.Context, digest string, r io.Reader) error {
	_, err := io.ReadAll(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first.IsZero() {
		p.first = time.Now()
	}
	if time.Since(p.first) < p.refuse {
		return errors.New("the disk is slow")
	}
	p.bundles[digest] = true
	return err
}

// world is a controller over a fake cluster, in a bubble of its own time.
type world struct {
	t      *testing.T
	client *fake.Clientset
	pool   *pool
	events *record.FakeRecorder
}

func inWorld(t *testing.T, objects []runtime.Object, test func(w *world)) {
	t.Helper()
	inWorldOf(t, newPool(), objects, test)
}

func inWorldOf(t *testing.T, leases *pool, objects []runtime.Object, test func(w *world)) {
	synctest.Test(t, func(t *testing.T) {
		objects = append(objects, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []corev1.ServicePort{{Name: "https", Port: 443}}},
		})
		w := &world{t: t, client: fake.NewClientset(objects...), pool: leases, events: record.NewFakeRecorder(1000)}
		cidr, err := newAddresses(netip.MustParsePrefix("10.245.0.0/16"), 0, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		c := &podController{
			account: w.client,
			client:  w.client, nodeName: "sanfran", hostIP: "10.0.0.1", idleTimeout: time.Minute,
			leases: w.pool, bundles: w.pool, objects: newClusterObjects(w.client, time.Now), addresses: addressPools{cidr},
			events: w.events, facts: factsOf(w.client, "cluster.local"), now: time.Now, log: slog.New(slog.DiscardHandler),
		}
		c.policies = newPolicies(w.client, time.Now(), c.ofNamespace, c.policyIgnored)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.run(ctx) }()
		go func() { done <- c.policies.run(ctx) }()
		defer func() {
			cancel()
			for range 2 {
				if err := <-done; err != nil {
					t.Errorf("run ended with %v", err)
				}
			}
		}()
		w.settle()
		test(w)
	})
}

// settle lets everything happen that happens by itself and soon. The bubble's
// time goes on, as informers poll.
func (w *world) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func (w *world) get(name string) *corev1.Pod {
	w.t.Helper()
	pod, err := w.client.CoreV1().Pods("default").Get(w.t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return pod
}

func (w *world) create(pod *corev1.Pod) {
	w.t.Helper()
	if _, err := w.client.CoreV1().Pods("default").Create(w.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

// told are the events so far.
func (w *world) told() string {
	var all []string
	for {
		select {
		case e := <-w.events.Events:
			all = append(all, e)
		default:
			return strings.Join(all, "\n")
		}
	}
}

// patches counts writes of pod status.
func (w *world) patches() (n int) {
	for _, a := range w.client.Actions() {
		if a.Matches("patch", "pods") {
			n++
		}
	}
	return n
}

func code() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "hello", Namespace: "default"}, Data: map[string]string{"index.js": "x"}}
}

func TestPodBecomesLease(t *testing.T) {
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello())
		a := w.pool.assigned["uid-hello"]
		if a == nil || a.Address == "" || a.IdleTimeout.AsDuration() != time.Minute || !w.pool.bundles[a.Mounts[0].GetBundle()] {
			w.t.Fatalf("assigned %v, bundles %v", a, w.pool.bundles)
		}
		pod := w.get("hello")
		if pod.Status.Phase != corev1.PodRunning || pod.Status.PodIP != a.Address || pod.Status.HostIP != "10.0.0.1" {
			w.t.Errorf("status %s", brief(pod.Status))
		}
		if told := w.told(); !strings.Contains(told, "Normal Started") || !strings.Contains(told, "Normal Leased") {
			w.t.Errorf("events:\n%s", told)
		}
		before := w.patches()
		w.pool.set("uid-hello", &agentv1.PodStatus{State: agentv1.PodState_POD_STATE_PARKED})
		w.settle()
		if w.patches() != before {
			w.t.Error("parking wrote the status, though nothing in it changes")
		}
		w.pool.set("uid-hello", ended(agentv1.PodState_POD_STATE_FAILED, end("SyntaxError", "index.js:1", 1, 0), time.Minute))
		w.settle()
		if pod := w.get("hello"); !strings.Contains(brief(pod.Status), "waiting:CrashLoopBackOff:SyntaxError: index.js:1") {
			w.t.Errorf("status %s", brief(pod.Status))
		}
		if told := w.told(); !strings.Contains(told, "Warning Failed SyntaxError: index.js:1") {
			w.t.Errorf("events:\n%s", told)
		}
	})
}

func TestMissingConfigMapIsToldAndWaitedFor(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(hello())
		time.Sleep(time.Minute)
		if pod := w.get("hello"); !strings.Contains(brief(pod.Status), "waiting:ContainerCreating:") || pod.Status.PodIP != "" {
			w.t.Errorf("status %s", brief(pod.Status))
		}
		if told := w.told(); strings.Count(told, "FailedMount") != 1 || !strings.Contains(told, `configmap "hello" not found`) {
			w.t.Errorf("events:\n%s", told)
		}
		if _, err := w.client.CoreV1().ConfigMaps("default").Create(w.t.Context(), code(), metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		time.Sleep(retryLast + time.Second)
		w.settle()
		if pod := w.get("hello"); pod.Status.Phase != corev1.PodRunning {
			w.t.Errorf("status %s", brief(pod.Status))
		}
	})
}

func TestUnsupportedPodStaysPendingWithTheReason(t *testing.T) {
	inWorld(t, nil, func(w *world) {
		w.create(hello(func(p *corev1.Pod) { p.Spec.HostNetwork = true }))
		time.Sleep(time.Hour)
		pod := w.get("hello")
		if pod.Status.Phase != corev1.PodPending || !strings.Contains(brief(pod.Status), "waiting:Unsupported:spec.hostNetwork") {
			w.t.Errorf("status %s", brief(pod.Status))
		}
		if told := w.told(); strings.Count(told, "Unsupported") != 1 {
			w.t.Errorf("events:\n%s", told)
		}
		if len(w.pool.assigned) != 0 || w.patches() != 1 {
			w.t.Errorf("assigned %v, %d writes", w.pool.assigned, w.patches())
		}
	})
}

func TestDeletedPodGoesWhenItsLeaseHasEnded(t *testing.T) {
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello())
		w.pool.hold = true
		deletion := metav1.NewTime(time.Now().Add(30 * time.Second))
		pod := w.get("hello")
		pod.DeletionTimestamp = &deletion
		if _, err := w.client.CoreV1().Pods("default").Update(w.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.settle()
		if w.get("hello") == nil {
			w.t.Fatal("the pod is gone before its lease")
		}
		if got := w.pool.withdrawn["uid-hello"]; len(got) != 1 || got[0] != 30*time.Second {
			w.t.Fatalf("withdrawn %v, want once with 30s", got)
		}
		w.pool.set("uid-hello", nil)
		w.settle()
		if w.get("hello") != nil {
			w.t.Error("the pod is there though its lease has ended")
		}
		for _, a := range w.client.Actions() {
			if d, ok := a.(k8stesting.DeleteActionImpl); ok {
				o := d.DeleteOptions
				if *o.GracePeriodSeconds != 0 || string(*o.Preconditions.UID) != "uid-hello" {
					w.t.Errorf("deleted with %+v", o)
				}
			}
		}
	})
}

func TestGraceLeft(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 900_000_000, time.UTC)
	for name, tc := range map[string]struct {
		end   time.Duration // of the grace period, from the whole second on
		grace int64
		want  time.Duration
	}{
		"just begun":         {1 * time.Second, 1, time.Second},
		"long":               {30 * time.Second, 30, 30 * time.Second},
		"half over":          {15 * time.Second, 30, 15*time.Second + 100*time.Millisecond},
		"over":               {-20 * time.Second, 30, 0},
		"none":               {0, 0, 0},
		"shortened to a few": {2 * time.Second, 2, 2 * time.Second},
	} {
		end := metav1.NewTime(now.Truncate(time.Second).Add(tc.end))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &end, DeletionGracePeriodSeconds: &tc.grace}}
		if got := graceLeft(pod, now); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestPodDeletedByForceIsWithdrawn(t *testing.T) {
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello())
		first := w.pool.assigned["uid-hello"].Address
		if err := w.client.CoreV1().Pods("default").Delete(w.t.Context(), "hello", metav1.DeleteOptions{}); err != nil {
			w.t.Fatal(err)
		}
		// The next of the same name comes at once.
		w.create(hello(func(p *corev1.Pod) { p.UID = "uid-next" }))
		if w.pool.Status("uid-hello") != nil || len(w.pool.withdrawn["uid-hello"]) == 0 {
			w.t.Error("the lease of the first pod has not ended")
		}
		next := w.pool.assigned["uid-next"]
		if next == nil || next.Address == first {
			w.t.Errorf("the second pod got %v; the first's address %s must rest", next, first)
		}
	})
}

func TestStartTakesOverWhatIsThere(t *testing.T) {
	old := hello(func(p *corev1.Pod) {
		p.Status.PodIP, p.Status.Phase = "10.245.9.9", corev1.PodRunning
	})
	fresh := hello(func(p *corev1.Pod) { p.Name, p.UID = "fresh", "uid-fresh" })
	inWorld(t, []runtime.Object{code(), old, fresh}, func(w *world) {
		if a := w.pool.assigned["uid-hello"]; a == nil || a.Address != "10.245.9.9" {
			w.t.Errorf("assigned %v, want the address it had", a)
		}
		if len(w.pool.synced) != 1 || len(w.pool.synced[0]) != 2 {
			w.t.Errorf("synced %v, want once with both", w.pool.synced)
		}
		if told := w.told(); strings.Count(told, "Leased") != 1 {
			w.t.Errorf("old news was told:\n%s", told)
		}
	})
}

func TestFinalizerSeesTheEnd(t *testing.T) {
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello(func(p *corev1.Pod) { p.Finalizers = []string{"example.com/wait"} }))
		deletion := metav1.NewTime(time.Now())
		pod := w.get("hello")
		pod.DeletionTimestamp = &deletion
		if _, err := w.client.CoreV1().Pods("default").Update(w.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.settle()
		var phases []string
		for _, a := range w.client.Actions() {
			if p, ok := a.(k8stesting.PatchActionImpl); ok && strings.Contains(string(p.Patch), `"phase"`) {
				phases = append(phases, string(p.Patch))
			}
		}
		if len(phases) == 0 || !strings.Contains(phases[len(phases)-1], `"phase":"Succeeded"`) {
			w.t.Errorf("phases written: %v", phases)
		}
	})
}

// TestWrongAnnotationHidesNothing: it changes nothing of a pod that runs, and
// least of all that the pod is told of as it is.
func TestWrongAnnotationHidesNothing(t *testing.T) {
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello())
		pod := w.get("hello")
		pod.Annotations = map[string]string{AnnotationIdleTimeout: "soon"}
		if _, err := w.client.CoreV1().Pods("default").Update(w.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.settle()
		if pod := w.get("hello"); !strings.Contains(brief(pod.Status), " Ready=True") {
			w.t.Errorf("status %s", brief(pod.Status))
		}
		w.pool.set("uid-hello", &agentv1.PodStatus{State: agentv1.PodState_POD_STATE_FAILED, Reason: "OOMKilled", Message: "m"})
		w.settle()
		if pod := w.get("hello"); !strings.Contains(brief(pod.Status), " Ready=False") {
			w.t.Errorf("it has failed, and still %s", brief(pod.Status))
		}
	})
}

// TestWrongAnnotationOfAPodThatRan: a control plane that starts does not know what the
// annotation said before, and the pod runs on all the same.
func TestWrongAnnotationOfAPodThatRan(t *testing.T) {
	serving := hello(annotated(map[string]string{AnnotationConcurrency: "many", AnnotationExpose: "no"}))
	serving.Status = podStatus(serving, situation{now: noon, podIPs: podIPs{"10.245.9.9"}, lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")})
	never := hello(annotated(map[string]string{AnnotationConcurrency: "many"}))
	never.Name, never.UID = "never", "uid-never"
	inWorldOf(t, newPool(), []runtime.Object{code(), serving, never}, func(w *world) {
		w.settle()
		if pod := w.get("hello"); !strings.Contains(brief(pod.Status), " Ready=True") {
			w.t.Errorf("a pod that ran: %s", brief(pod.Status))
		}
		if pod := w.get("never"); !strings.Contains(brief(pod.Status), reasonUnsupported) {
			w.t.Errorf("a pod that never ran: %s", brief(pod.Status))
		}
		if f := readWithoutAnnotations(serving); f == nil || f.Exposed {
			w.t.Errorf("read as %+v, want one that is kept off the gateway", f)
		}
	})
}

func TestStartDoesNotDoubtPodsThatServe(t *testing.T) {
	// Unspecified is what the pool says of a pod that no agent has spoken of.
	for _, initial := range []agentv1.PodState{agentv1.PodState_POD_STATE_UNSPECIFIED, agentv1.PodState_POD_STATE_PREPARING} {
		t.Run(initial.String(), func(t *testing.T) {
			serving := hello()
			serving.Status = podStatus(serving, situation{now: noon, podIPs: podIPs{"10.245.9.9"}, lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")})
			leases := newPool()
			leases.initial = initial
			inWorldOf(t, leases, []runtime.Object{code(), serving}, func(w *world) {
				time.Sleep(settleTime / 2)
				if pod := w.get("hello"); !strings.Contains(brief(pod.Status), " Ready=True") {
					w.t.Errorf("before the agent reported: %s", brief(pod.Status))
				}
				time.Sleep(settleTime)
				w.settle()
				if pod := w.get("hello"); !strings.Contains(brief(pod.Status), " Ready=False") {
					w.t.Errorf("no agent reported, and still %s", brief(pod.Status))
				}
			})
		})
	}
}
