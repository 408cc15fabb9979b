package provider

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// hello is the least that is a function.
func hello(change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "hello", Namespace: "default", UID: "uid-hello", Generation: 1},
		Spec: corev1.PodSpec{
			NodeName:           "sanfran",
			ServiceAccountName: "default",
			Containers: []corev1.Container{{
				Name: "hello", Image: "sanfran/node:24",
				VolumeMounts: []corev1.VolumeMount{{Name: "code", MountPath: "/function"}},
			}},
			Volumes: []corev1.Volume{{Name: "code", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "hello"}},
			}}},
		},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func TestReadFunction(t *testing.T) {
	yes := true
	five := 5 * time.Minute
	owned := func(kind, name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Name = name + "-abcde"
			p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: &yes}}
		}
	}
	type want struct {
		Name, Runtime, Hostname string
		Exposed                 bool
		Port                    uint32
		MilliCPU, Memory        int64
		Idle                    *time.Duration
		Ignored                 int
	}
	for _, tt := range []struct {
		name   string
		change func(*corev1.Pod)
		want   want
	}{
		{"least", func(*corev1.Pod) {}, want{Name: "hello", Hostname: "hello", Exposed: true, Port: 8080}},
		{"port and limits", func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 3000}}
			p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
			}
		}, want{Name: "hello", Hostname: "hello", Exposed: true, Port: 3000, MilliCPU: 250, Memory: 64 << 20}},
		{"label names it", func(p *corev1.Pod) { p.Labels = map[string]string{LabelFunction: "greet"} },
			want{Name: "greet", Hostname: "hello", Exposed: true, Port: 8080}},
		{"of a Deployment", func(p *corev1.Pod) {
			owned("ReplicaSet", "greet-7d9c")(p)
			p.Labels = map[string]string{"pod-template-hash": "7d9c"}
		}, want{Name: "greet", Hostname: "greet-7d9c-abcde", Exposed: true, Port: 8080}},
		{"of a ReplicaSet", owned("ReplicaSet", "greet-7d9c"),
			want{Name: "greet-7d9c", Hostname: "greet-7d9c-abcde", Exposed: true, Port: 8080}},
		{"of a StatefulSet", owned("StatefulSet", "greet"),
			want{Name: "greet", Hostname: "greet-abcde", Exposed: true, Port: 8080}},
		{"annotations", func(p *corev1.Pod) {
			p.Annotations = map[string]string{AnnotationIdleTimeout: "5m", AnnotationExpose: "false"}
		}, want{Name: "hello", Hostname: "hello", Port: 8080, Idle: &five}},
		{"probe", func(p *corev1.Pod) { p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{} },
			want{Name: "hello", Hostname: "hello", Exposed: true, Port: 8080, Ignored: 1}},
		{"standard input", func(p *corev1.Pod) { p.Spec.Containers[0].Stdin, p.Spec.Containers[0].TTY = true, true },
			want{Name: "hello", Hostname: "hello", Exposed: true, Port: 8080, Ignored: 1}},
		{"long name", func(p *corev1.Pod) { p.Name = strings.Repeat("a", 62) + "-b" },
			want{Name: strings.Repeat("a", 62) + "-b", Hostname: strings.Repeat("a", 62), Exposed: true, Port: 8080}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := ReadFunction(hello(tt.change))
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Runtime = "node24"
			got := want{f.Name, f.Runtime, f.Hostname, f.Exposed, f.Port, f.Resources.GetMilliCpu(), f.Resources.GetMemoryBytes(), f.IdleTimeout, len(f.Ignored)}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestImagesNameRuntimes(t *testing.T) {
	for image, want := range map[string]string{"sanfran/node": "node24", "sanfran/node:24": "node24", "sanfran/node:26": "node26"} {
		f, err := ReadFunction(hello(func(p *corev1.Pod) { p.Spec.Containers[0].Image = image }))
		if err != nil {
			t.Errorf("%s: %v", image, err)
		} else if f.Runtime != want {
			t.Errorf("%s is %s, want %s", image, f.Runtime, want)
		}
	}
}

func TestUnsupportedNamesTheFieldAndWhatToDo(t *testing.T) {
	yes, seconds := true, int64(5)
	volume := func(source corev1.VolumeSource) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "other", VolumeSource: source})
		}
	}
	container := func(change func(*corev1.Container)) func(*corev1.Pod) {
		return func(p *corev1.Pod) { change(&p.Spec.Containers[0]) }
	}
	for _, tt := range []struct {
		field  string
		change func(*corev1.Pod)
	}{
		{"spec.containers", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b"}) }},
		{"spec.initContainers", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{{Name: "i"}} }},
		{"spec.hostNetwork", func(p *corev1.Pod) { p.Spec.HostNetwork = true }},
		{"spec.hostPID", func(p *corev1.Pod) { p.Spec.HostPID = true }},
		{"spec.hostIPC", func(p *corev1.Pod) { p.Spec.HostIPC = true }},
		{"spec.activeDeadlineSeconds", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = &seconds }},
		{"spec.hostAliases", func(p *corev1.Pod) { p.Spec.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4"}} }},
		{"spec.os", func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }},
		{"spec.volumes[1].hostPath", volume(corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}})},
		{"spec.volumes[1].persistentVolumeClaim", volume(corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}})},
		{"spec.volumes[1]", volume(corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}})},
		{"spec.volumes[1].projected.sources[0]", volume(corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}}}})},
		{"spec.containers[0].image", container(func(c *corev1.Container) { c.Image = "nginx" })},
		{"spec.containers[0].command", container(func(c *corev1.Container) { c.Command = []string{"sh"} })},
		{"spec.containers[0].args", container(func(c *corev1.Container) { c.Args = []string{"npm", "test"} })},
		{"spec.containers[0].workingDir", container(func(c *corev1.Container) { c.WorkingDir = "x" })},
		{"metadata.annotations[sanfran.dev/park]", func(p *corev1.Pod) { p.Annotations = map[string]string{AnnotationPark: "yes"} }},
		{"metadata.annotations[sanfran.dev/park]", func(p *corev1.Pod) {
			p.Annotations = map[string]string{AnnotationPark: "true"}
			p.Spec.RestartPolicy = corev1.RestartPolicyNever
		}},
		{"spec.containers[0].lifecycle", container(func(c *corev1.Container) { c.Lifecycle = &corev1.Lifecycle{} })},
		{"spec.containers[0].ports", container(func(c *corev1.Container) { c.Ports = make([]corev1.ContainerPort, 2) })},
		{"spec.containers[0].ports[0].hostPort", container(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{HostPort: 80}} })},
		{"spec.containers[0].ports[0].protocol", container(func(c *corev1.Container) { c.Ports = []corev1.ContainerPort{{Protocol: corev1.ProtocolUDP}} })},
		{"spec.containers[0].securityContext.privileged", container(func(c *corev1.Container) { c.SecurityContext = &corev1.SecurityContext{Privileged: &yes} })},
		{"spec.containers[0].volumeMounts", container(func(c *corev1.Container) { c.VolumeMounts = nil })},
		{"spec.containers[0].volumeMounts[0].subPath", container(func(c *corev1.Container) { c.VolumeMounts[0].SubPath = "x" })},
		{"spec.containers[0].volumeMounts[0]", func(p *corev1.Pod) {
			p.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}
		}},
		{"spec.volumes[1].emptyDir.medium", volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumHugePages}})},
		{"spec.volumes[1].emptyDir.sizeLimit", volume(corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: resource.NewQuantity(1000, resource.BinarySI)}})},
		{"spec.containers[0].resources.limits[ephemeral-storage]", container(func(c *corev1.Container) {
			c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse("1k")}
		})},
		{"metadata.annotations[sanfran.dev/idle-timeout]", func(p *corev1.Pod) { p.Annotations = map[string]string{AnnotationIdleTimeout: "soon"} }},
	} {
		t.Run(tt.field, func(t *testing.T) {
			_, err := ReadFunction(hello(tt.change))
			var refused *Unsupported
			if !errors.As(err, &refused) {
				t.Fatalf("got %v, want Unsupported", err)
			}
			if refused.Field != tt.field || refused.Advice == "" {
				t.Errorf("got %q: %q", refused.Field, refused.Advice)
			}
		})
	}
}

func TestReadFunctionResources(t *testing.T) {
	f, err := ReadFunction(hello(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{
			Limits: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("1500m"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("10Mi"),
			},
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := &agentv1.Resources{MilliCpu: 1500, MilliCpuRequest: 100, MemoryBytes: 1 << 30, MemoryRequestBytes: 64 << 20, EphemeralBytes: 10 << 20}
	if !proto.Equal(f.Resources, want) {
		t.Errorf("got %v, want %v", f.Resources, want)
	}
}
