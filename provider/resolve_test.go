package provider

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// shelf is Objects from memory.
type shelf struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (s shelf) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if m := s.configMaps[name]; m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (s shelf) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if m := s.secrets[name]; m != nil {
		return m, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (shelf) Token(_ context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	return "token of " + pod.Name + " for " + source.Audience, later, nil
}

func mustAddr(s string) netip.Addr {
	addr, _ := netip.ParseAddr(s)
	return addr
}

var full = shelf{
	configMaps: map[string]*corev1.ConfigMap{
		"hello": {Data: map[string]string{"index.js": "code", "README": "x"}, BinaryData: map[string][]byte{"a.wasm": {0, 1}}},
		"conf":  {Data: map[string]string{"MODE": "fast", "B": "2"}},
	},
	secrets: map[string]*corev1.Secret{"key": {Data: map[string][]byte{"pass": []byte("s3")}}},
}

func resolveHello(t *testing.T, objects Objects, change ...func(*corev1.Pod)) (*resolved, error) {
	t.Helper()
	pod := hello(change...)
	f, err := ReadFunction(pod)
	if err != nil {
		t.Fatal(err)
	}
	return resolve(t.Context(), objects, pod, f, place{
		podIPs: podIPs{"10.245.0.5"}, hostIP: "10.0.0.1", node: &agentv1.Capacity{MilliCpu: 1500, MemoryBytes: 1 << 30},
		defaults: map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1"},
	})
}

func TestResolveEnv(t *testing.T) {
	yes := true
	name := func(n string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: n} }
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	r, err := resolveHello(t, full, func(p *corev1.Pod) {
		p.Labels = map[string]string{"app": "x"}
		p.Annotations = map[string]string{"note": "y"}
		c := &p.Spec.Containers[0]
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("65Mi")}
		c.EnvFrom = []corev1.EnvFromSource{
			{Prefix: "C_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: name("conf")}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: name("absent"), Optional: &yes}},
		}
		c.Env = []corev1.EnvVar{
			{Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "URL", Value: "http://$(IP):$$(IP)/$(NOTHING)"},
			{Name: "PASS", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: name("key"), Key: "pass"}}},
			{Name: "MODE", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: name("conf"), Key: "MODE"}}},
			{Name: "GONE", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: name("conf"), Key: "no", Optional: &yes}}},
			{Name: "APP", ValueFrom: field("metadata.labels['app']")},
			{Name: "NOTE", ValueFrom: field("metadata.annotations['note']")},
			{Name: "NODE", ValueFrom: field("spec.nodeName")},
			{Name: "HOST", ValueFrom: field("status.hostIP")},
			{Name: "UID", ValueFrom: field("metadata.uid")},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Gi")}}},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range r.assignment.Env {
		got = append(got, e.Name+"="+e.Value)
	}
	want := []string{
		"KUBERNETES_SERVICE_HOST=10.96.0.1", "PORT=8080", "C_B=2", "C_MODE=fast", "IP=10.245.0.5",
		"URL=http://10.245.0.5:$(IP)/$(NOTHING)", "PASS=s3", "MODE=fast", "APP=x", "NOTE=y",
		"NODE=sanfran", "HOST=10.0.0.1", "UID=uid-hello", "MEM=1", "CPU=2",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResolveVolumes(t *testing.T) {
	volumes := func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes,
			corev1.Volume{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: resource.NewQuantity(5<<20, resource.BinarySI)}}},
			corev1.Volume{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
				SecretName: "key", Items: []corev1.KeyToPath{{Key: "pass", Path: "a/b"}}}}},
			corev1.Volume{Name: "kube-api-access-1x2y3", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{
					{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "a"}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}}},
					{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
						{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
				}}}},
		)
		c := &p.Spec.Containers[0]
		c.VolumeMounts = append(c.VolumeMounts,
			corev1.VolumeMount{Name: "tmp", MountPath: "/data"},
			corev1.VolumeMount{Name: "secret", MountPath: "/secret"},
			corev1.VolumeMount{Name: "kube-api-access-1x2y3", MountPath: "/token"})
	}
	r, err := resolveHello(t, full, volumes)
	if err != nil {
		t.Fatal(err)
	}
	mounts := r.assignment.Mounts
	if len(mounts) != 4 || mounts[0].GetBundle() != r.digest || mounts[1].GetEmptyDir().GetName() != "tmp" || mounts[1].GetEmptyDir().GetSizeBytes() != 5<<20 {
		t.Fatalf("mounts %v", mounts)
	}
	text := func(files map[string][]byte) map[string]string {
		out := map[string]string{}
		for k, v := range files {
			out[k] = string(v)
		}
		return out
	}
	if diff := cmp.Diff(map[string]string{"a/b": "s3"}, text(mounts[2].GetFiles().GetFiles())); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"token": "token of hello for a", "MODE": "fast", "B": "2", "namespace": "default"}, text(mounts[3].GetFiles().GetFiles())); diff != "" {
		t.Error(diff)
	}
	if !r.refresh.Equal(later) {
		t.Errorf("refresh %v, want the token's %v", r.refresh, later)
	}
	want, _, err := packBundle(map[string][]byte{"index.js": []byte("code"), "README": []byte("x"), "a.wasm": {0, 1}})
	if err != nil || r.digest != want {
		t.Errorf("code %s, want %s (%v)", r.digest, want, err)
	}
}

func TestResolveMissing(t *testing.T) {
	_, err := resolveHello(t, shelf{})
	var volume *volumeError
	if !errors.As(err, &volume) || !errors.Is(err, errMissing) || !strings.Contains(err.Error(), `configmap "hello" not found`) {
		t.Errorf("got %v", err)
	}
	_, err = resolveHello(t, full, func(p *corev1.Pod) {
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "no"}}}}
	})
	if errors.As(err, &volume) || !errors.Is(err, errMissing) || !strings.Contains(err.Error(), `secret "no" not found`) {
		t.Errorf("got %v", err)
	}
	_, err = resolveHello(t, full, func(p *corev1.Pod) {
		p.Spec.Volumes[0].ConfigMap.Items = []corev1.KeyToPath{{Key: "gone.js", Path: "index.js"}}
	})
	if !errors.Is(err, errMissing) || !strings.Contains(err.Error(), "gone.js") {
		t.Errorf("got %v", err)
	}
}

func TestRevisionIsOfTheTemplate(t *testing.T) {
	of := func(change ...func(*corev1.Pod)) string {
		r, err := resolveHello(t, full, change...)
		if err != nil {
			t.Fatal(err)
		}
		return r.assignment.Revision
	}
	first := of()
	if again := of(func(p *corev1.Pod) { p.Name, p.UID = "hello-2", "other" }); again != first {
		t.Error("another pod of the template has another revision")
	}
	token := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
				Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}}}}}})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/t"})
		}
	}
	if of(token("kube-api-access-1")) != of(token("kube-api-access-2")) {
		t.Error("the token volume's random name changes the revision")
	}
	for name, change := range map[string]func(*corev1.Pod){
		"namespace": func(p *corev1.Pod) { p.Namespace = "other" },
		"code": func(p *corev1.Pod) {
			p.Spec.Volumes[0].ConfigMap.Items = []corev1.KeyToPath{{Key: "README", Path: "index.js"}}
		},
		"env":  func(p *corev1.Pod) { p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "A", Value: "b"}} },
		"port": func(p *corev1.Pod) { p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 1}} },
		"memory": func(p *corev1.Pod) {
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
		},
	} {
		if of(change) == first {
			t.Errorf("a change of %s leaves the revision", name)
		}
	}
}

func TestPodDNS(t *testing.T) {
	value := "2"
	server := mustAddr("10.96.0.10")
	for name, tt := range map[string]struct {
		policy corev1.DNSPolicy
		config *corev1.PodDNSConfig
		want   *agentv1.Dns
	}{
		"cluster first": {corev1.DNSClusterFirst, nil, &agentv1.Dns{
			Nameservers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}, Options: []string{"ndots:5"}}},
		"with config": {corev1.DNSClusterFirst, &corev1.PodDNSConfig{Searches: []string{"x"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &value}}}, &agentv1.Dns{
			Nameservers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local", "x"}, Options: []string{"ndots:2"}}},
		"default": {corev1.DNSDefault, nil, nil},
		"none":    {corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}}, &agentv1.Dns{Nameservers: []string{"9.9.9.9"}}},
	} {
		got := podDNS(hello(func(p *corev1.Pod) { p.Spec.DNSPolicy, p.Spec.DNSConfig = tt.policy, tt.config }), server, "cluster.local")
		if diff := cmp.Diff(tt.want.String(), got.String()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if got := podDNS(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "x"}}, mustAddr(""), "d"); got != nil {
		t.Errorf("without a name server: %v, want the node's own", got)
	}
}

// TestMountPathsAreCleaned: an agent refuses paths that are not.
func TestMountPathsAreCleaned(t *testing.T) {
	r, err := resolveHello(t, full, func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "code", MountPath: "//function/"}, {Name: "data", MountPath: "/data/"}}
	})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, m := range r.assignment.Mounts {
		paths = append(paths, m.Path)
	}
	if diff := cmp.Diff([]string{"/function", "/data"}, paths); diff != "" {
		t.Error(diff)
	}
	for _, at := range []string{"/", "/function/.", "data"} {
		pod := hello(func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "code", MountPath: at})
		})
		var bad *Unsupported
		if _, err := ReadFunction(pod); !errors.As(err, &bad) {
			t.Errorf("a mount at %q gives %v", at, err)
		}
	}
}
