package provider

import (
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

func annotated(m map[string]string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Annotations = m }
}

func TestAnnotationsBecomeAPolicy(t *testing.T) {
	f, err := ReadFunction(hello(annotated(map[string]string{
		AnnotationConnectTimeout: "500ms", AnnotationFirstByteTimeout: "10s", AnnotationStreamIdleTimeout: "1m", AnnotationRequestTimeout: "5m",
		AnnotationRateLimit: "600/m", AnnotationRateBurst: "30", AnnotationMaxBody: "10Mi",
		AnnotationConcurrency: "1", AnnotationQueueLength: "50", AnnotationQueueTimeout: "3s",
		AnnotationSplit: "hello-next=10, hello-b=20", AnnotationSplitSticky: "cookie:hello-split",
	})))
	if err != nil {
		t.Fatal(err)
	}
	want := &routesv1.Policy{
		ConnectTimeout: durationpb.New(500 * time.Millisecond), FirstByteTimeout: durationpb.New(10 * time.Second),
		StreamIdleTimeout: durationpb.New(time.Minute), RequestTimeout: durationpb.New(5 * time.Minute),
		Rate: 10, Burst: 30, MaxBodyBytes: 10 << 20, Concurrency: 1, QueueLength: 50, QueueTimeout: durationpb.New(3 * time.Second),
		Split: &routesv1.Split{
			Parts:  []*routesv1.Part{{Function: "hello-next", Percent: 10}, {Function: "hello-b", Percent: 20}},
			Sticky: &routesv1.Split_Cookie{Cookie: "hello-split"},
		},
	}
	if diff := cmp.Diff(want, f.Policy, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if f, err := ReadFunction(hello()); err != nil || f.Policy != nil {
		t.Errorf("without annotations: %v, %v", f.Policy, err)
	}
}

func TestRates(t *testing.T) {
	for text, want := range map[string]float64{"50": 50, "50/s": 50, "600/m": 10, "36/h": .01, "0.5": .5} {
		f, err := ReadFunction(hello(annotated(map[string]string{AnnotationRateLimit: text})))
		if err != nil || f.Policy.GetRate() != want {
			t.Errorf("%q: %v a second, %v; want %v", text, f.Policy.GetRate(), err, want)
		}
	}
}

// A wrong annotation names its field, says what to write, and none of them counts.
func TestWrongTrafficAnnotations(t *testing.T) {
	for _, tt := range [][2]string{
		{AnnotationConnectTimeout, "soon"}, {AnnotationFirstByteTimeout, "10"}, {AnnotationStreamIdleTimeout, "-1s"}, {AnnotationRequestTimeout, "0s"},
		{AnnotationRequestTimeout, "25h"}, {AnnotationQueueTimeout, "1ns"},
		{AnnotationRateLimit, "fast"}, {AnnotationRateLimit, "0"}, {AnnotationRateLimit, "-5"}, {AnnotationRateLimit, "NaN"}, {AnnotationRateLimit, "Inf/s"}, {AnnotationRateLimit, "10/d"}, {AnnotationRateLimit, "5/"},
		{AnnotationRateBurst, "5"}, {AnnotationMaxBody, "large"}, {AnnotationMaxBody, "0"}, {AnnotationMaxBody, "-1Mi"}, {AnnotationMaxBody, "9E"}, {AnnotationMaxBody, "1e9"},
		{AnnotationConcurrency, "0"}, {AnnotationConcurrency, "1.5"}, {AnnotationConcurrency, "99999999999"}, {AnnotationQueueLength, "-1"}, {AnnotationQueueLength, ""},
		{AnnotationSplit, ""}, {AnnotationSplit, "next"}, {AnnotationSplit, "next=0"}, {AnnotationSplit, "next=101"}, {AnnotationSplit, "next=60,other=60"},
		{AnnotationSplit, "next=1,next=2"}, {AnnotationSplit, "hello=50"}, {AnnotationSplit, "Next!=5"}, {AnnotationSplit, "a/b=5"},
		{AnnotationSplitSticky, "cookie:x"}, {AnnotationExpose, "no"},
	} {
		f, err := ReadFunction(hello(annotated(map[string]string{tt[0]: tt[1]})))
		var bad *Unsupported
		if f != nil || !errors.As(err, &bad) || bad.Field != "metadata.annotations["+tt[0]+"]" || bad.Advice == "" {
			t.Errorf("%s: %q: function %v, error %v", tt[0], tt[1], f, err)
		}
	}
	for _, sticky := range []string{
		"", "cookie", "cookie:", "header:a b", "cookie:a;b", "query:x", "header:X-Ü", "cookie:a=b", `cookie:a"b`, "cookie:a/b", "cookie:a\x7f", "cookie:ä",
		"header::authority", "header:connection", "header:TE", "header:Transfer-Encoding", "header:Content-Length", "header:Sanfran-Lease", "header:cookie",
	} {
		_, err := ReadFunction(hello(annotated(map[string]string{AnnotationSplit: "next=5", AnnotationSplitSticky: sticky})))
		var bad *Unsupported
		if !errors.As(err, &bad) || bad.Field != "metadata.annotations["+AnnotationSplitSticky+"]" {
			t.Errorf("sticky %q: %v", sticky, err)
		}
	}
}

// A split names functions as labels and objects do, and clients by whatever HTTP may.
func TestSplitsTakeEveryNameThereIs(t *testing.T) {
	for _, name := range []string{
		"Hello_v1.2-B", "A", "0", strings.Repeat("L", 63), // labels
		"hello.v2", strings.Repeat("o", 253), // objects
	} {
		f, err := ReadFunction(hello(annotated(map[string]string{AnnotationSplit: "next=5, " + name + "=10"})))
		if err != nil || len(f.Policy.GetSplit().GetParts()) != 2 || f.Policy.GetSplit().GetParts()[1].GetFunction() != name {
			t.Errorf("%q: %v, %v", name, f, err)
		}
	}
	for _, name := range []string{"", "-a", "a-", "a_", "A B", strings.Repeat("L", 64), "a..b_", "ü", strings.Repeat("o", 254)} {
		_, err := ReadFunction(hello(annotated(map[string]string{AnnotationSplit: name + "=10"})))
		var bad *Unsupported
		if !errors.As(err, &bad) || bad.Field != "metadata.annotations["+AnnotationSplit+"]" {
			t.Errorf("%q: %v", name, err)
		}
	}
	for text, want := range map[string]*routesv1.Split{
		"header:Host":        {Sticky: &routesv1.Split_Header{Header: "Host"}},
		"header:x-user_1":    {Sticky: &routesv1.Split_Header{Header: "x-user_1"}},
		"cookie:!#$%&'*+.^`": {Sticky: &routesv1.Split_Cookie{Cookie: "!#$%&'*+.^`"}},
		"cookie:__Host-Next": {Sticky: &routesv1.Split_Cookie{Cookie: "__Host-Next"}},
	} {
		want.Parts = []*routesv1.Part{{Function: "next", Percent: 5}}
		f, err := ReadFunction(hello(annotated(map[string]string{AnnotationSplit: "next=5", AnnotationSplitSticky: text})))
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if diff := cmp.Diff(want, f.Policy.GetSplit(), protocmp.Transform()); diff != "" {
			t.Errorf("%q: %s", text, diff)
		}
	}
}

// Who may make a pod does not keep the control plane at work: each of these took it
// minutes, or as long as its text is long.
func TestHostileAnnotationsAreRefusedAtOnce(t *testing.T) {
	long := strings.Repeat("9", 200_000)
	for _, tt := range [][2]string{
		{AnnotationMaxBody, "1e999999999"}, {AnnotationMaxBody, "1E-999999999"}, {AnnotationMaxBody, long}, {AnnotationMaxBody, "0." + long},
		{AnnotationRateLimit, long}, {AnnotationConcurrency, long}, {AnnotationRequestTimeout, long + "s"}, {AnnotationSplit, strings.Repeat("a=1,", 50_000)},
	} {
		_, err := ReadFunction(hello(annotated(map[string]string{tt[0]: tt[1]})))
		var bad *Unsupported
		if !errors.As(err, &bad) || bad.Field != "metadata.annotations["+tt[0]+"]" || len(bad.Advice) > 500 {
			t.Errorf("%s, %d bytes: %.300v", tt[0], len(tt[1]), err)
		}
	}
	for text, want := range map[string]int64{"1": 1, "512Ki": 512 << 10, "1.5Mi": 3 << 19, "2Gi": 2 << 30, "10M": 10e6, "0.5k": 500} {
		f, err := ReadFunction(hello(annotated(map[string]string{AnnotationMaxBody: text})))
		if err != nil || f.Policy.GetMaxBodyBytes() != want {
			t.Errorf("%q is %d bytes, %v; want %d", text, f.Policy.GetMaxBodyBytes(), err, want)
		}
	}
}

func TestUnknownAnnotationIsTold(t *testing.T) {
	f, err := ReadFunction(hello(annotated(map[string]string{"sanfran.dev/rate-limt": "5", "example.com/x": "y", AnnotationRateLimit: "5"})))
	if err != nil || len(f.Ignored) != 1 || !strings.Contains(f.Ignored[0], "sanfran.dev/rate-limt") {
		t.Errorf("ignored %q, %v", f.Ignored, err)
	}
}

// docs/routing.md names every annotation that is read, and no other.
func TestEveryAnnotationIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/routing.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(sanfran\\.dev/[a-z-]+): ").FindAllStringSubmatch(string(doc), -1) {
		documented[row[1]] = true
	}
	read := append([]string{AnnotationIdleTimeout, AnnotationPark, AnnotationExpose}, trafficAnnotations...)
	for _, name := range read {
		if !documented[name] {
			t.Errorf("docs/routing.md has no row of %s", name)
		}
	}
	if len(documented) != len(read) {
		t.Errorf("docs/routing.md has %v, but %v are read", documented, read)
	}
}

func namespaceOf(annotations map[string]string) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Annotations: annotations}}
}

func (w *world) update(change func(*corev1.Pod)) {
	w.t.Helper()
	pod := w.get("hello")
	change(pod)
	if _, err := w.client.CoreV1().Pods("default").Update(w.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

// A changed policy reaches the route and leaves the assignment as it was, also when
// the ConfigMap behind it has changed meanwhile.
func TestAPolicyChangesTheRouteAlone(t *testing.T) {
	inWorld(t, []runtime.Object{code(), namespaceOf(nil)}, func(w *world) {
		w.create(hello(annotated(map[string]string{AnnotationRateLimit: "5"})))
		assigned := w.pool.assigned["uid-hello"]
		if r := w.pool.routes["uid-hello"]; r.GetPolicy().GetRate() != 5 || !r.GetExposed() || r.GetOwner() != "" {
			t.Fatalf("route %v", r)
		}
		changed := code()
		changed.Data["index.js"] = "other"
		if _, err := w.client.CoreV1().ConfigMaps("default").Update(w.t.Context(), changed, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.update(annotated(map[string]string{AnnotationRateLimit: "7"}))
		if r := w.pool.routes["uid-hello"]; r.GetPolicy().GetRate() != 7 {
			t.Errorf("route %v", r)
		}
		if w.pool.assigned["uid-hello"] != assigned {
			t.Error("the pod was assigned anew")
		}
		w.told()
		w.update(annotated(map[string]string{AnnotationRateLimit: "9", AnnotationMaxBody: "much"}))
		if r := w.pool.routes["uid-hello"]; r.GetPolicy().GetRate() != 7 {
			t.Errorf("half of wrong annotations was taken: %v", r)
		}
		if told := w.told(); !strings.Contains(told, "Warning Unsupported metadata.annotations[sanfran.dev/max-body]") {
			t.Errorf("events:\n%s", told)
		}
		w.update(annotated(nil))
		if r := w.pool.routes["uid-hello"]; r.GetPolicy() != nil {
			t.Errorf("route %v without annotations", r)
		}
	})
}

func TestANamespaceIsKeptOffTheGateway(t *testing.T) {
	hidden := map[string]string{AnnotationExpose: "false"}
	inWorld(t, []runtime.Object{code(), namespaceOf(hidden)}, func(w *world) {
		w.create(hello())
		if w.pool.routes["uid-hello"].GetExposed() {
			t.Error("exposed")
		}
		for _, exposed := range []bool{true, false} {
			n := namespaceOf(nil)
			if !exposed {
				n.Labels = hidden
			}
			if _, err := w.client.CoreV1().Namespaces().Update(w.t.Context(), n, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			w.settle()
			if got := w.pool.routes["uid-hello"].GetExposed(); got != exposed {
				t.Errorf("exposed %v, want %v", got, exposed)
			}
		}
	})
}

// The later of two is told, once, whoever is looked at first; not while one of them
// is off the gateway or going.
func TestANameClashIsToldToTheLater(t *testing.T) {
	deployed := func(p *corev1.Pod) {
		yes := true
		p.Name, p.UID = "hello-7d9c-abcde", "uid-later"
		p.CreationTimestamp = metav1.NewTime(noon.Add(time.Minute))
		p.Labels = map[string]string{"pod-template-hash": "7d9c"}
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "hello-7d9c", Controller: &yes}}
	}
	bare := func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(noon) }
	const warning = "Warning NameClash Function \"hello\" of namespace \"default\" is that of pod hello,"
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello(bare))
		w.create(hello(deployed))
		// A second replica of the same Deployment is told as well, and clashes with
		// the bare pod alone.
		w.create(hello(deployed, func(p *corev1.Pod) { p.Name, p.UID = "hello-7d9c-fghij", "uid-second" }))
		if told := w.told(); strings.Count(told, "NameClash") != 2 || strings.Count(told, warning) != 2 {
			t.Errorf("events:\n%s", told)
		}
	})
	inWorld(t, []runtime.Object{code()}, func(w *world) {
		w.create(hello(bare, annotated(map[string]string{AnnotationExpose: "false"})))
		w.create(hello(deployed))
		if told := w.told(); strings.Contains(told, "NameClash") {
			t.Errorf("one of them is off the gateway. Events:\n%s", told)
		}
		// It takes the name by coming back to the gateway: the later one is told.
		w.update(annotated(nil))
		if told := w.told(); strings.Count(told, warning) != 1 {
			t.Errorf("events:\n%s", told)
		}
	})
}
