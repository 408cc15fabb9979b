package provider

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

const (
	// LabelFunction names the function a pod is a replica of: what follows /fn/.
	LabelFunction = "sanfran.dev/function"
	// AnnotationIdleTimeout is how long a pod may be without activity before it
	// is parked, a Go duration; "0s" means never.
	AnnotationIdleTimeout = "sanfran.dev/idle-timeout"
	// AnnotationPark set to "true" has a pod parked also when its program listens
	// by itself; handlers always are.
	AnnotationPark = "sanfran.dev/park"
	// AnnotationExpose set to "false" keeps a pod off the gateway, or all of a
	// namespace. It may be a label too.
	AnnotationExpose = "sanfran.dev/expose"

	// codePath is where a function's code is mounted.
	codePath = "/function"
	// defaultPort is the port of a function without a containerPort.
	defaultPort = 8080
)

// DefaultRuntime is that of an image without a tag.
const DefaultRuntime = "node24"

// runtimes are the images of functions and the runtime each means.
var runtimes = map[string]string{
	"sanfran/node":    DefaultRuntime,
	"sanfran/node:24": "node24",
	"sanfran/node:26": "node26",
}

// A Function is what a pod asks for, before what it refers to is resolved.
type Function struct {
	// Name is what follows /fn/. Owner is the pod's top controller, whose pods alone
	// are replicas of each other; empty: it has none.
	Name    string
	Owner   string
	Exposed bool
	// Policy is what gateways are asked for; nil: nothing.
	Policy  *routesv1.Policy
	Runtime string
	Port    uint32
	// IdleTimeout is nil when the pod leaves it to the control plane.
	IdleTimeout *time.Duration
	Resources   *agentv1.Resources
	Hostname    string
	// Container is the pod's only one.
	Container *corev1.Container
	// Command is the program to run and its arguments, $(NAME) not expanded; nil
	// when the code says what it is. WorkingDir is where, clean; empty: codePath.
	Command    []string
	WorkingDir string
	// ParkServer: a program that listens by itself may be parked.
	ParkServer bool
	// Mounts are in the order of the container's, the code among them.
	Mounts []VolumeMount
	// Ignored are parts of the spec that are accepted and have no effect yet,
	// each as a sentence for an event.
	Ignored []string
}

// VolumeMount is one volume at one path.
type VolumeMount struct {
	// Path is absolute and clean.
	Path   string
	Volume *corev1.Volume
}

// Unsupported says that a pod asks for something functions cannot do, and what
// to change. It is the same for the same pod, so nothing is gained by retrying.
type Unsupported struct {
	// Field is the path of the spec's field, e.g. "spec.hostNetwork".
	Field string
	// Advice says what is wrong and what to do.
	Advice string
}

func (u *Unsupported) Error() string { return u.Field + ": " + u.Advice }

func unsupported(field, advice string, args ...any) error {
	return &Unsupported{Field: field, Advice: fmt.Sprintf(advice, args...)}
}

// ReadFunction tells what function a pod is. The error is an *[Unsupported].
func ReadFunction(pod *corev1.Pod) (*Function, error) {
	if err := checkPod(pod); err != nil {
		return nil, err
	}
	c := &pod.Spec.Containers[0]
	if err := checkContainer(c); err != nil {
		return nil, err
	}
	name, owner := functionName(pod)
	f := &Function{
		Name:      name,
		Owner:     owner,
		Exposed:   !hides(pod.Annotations) && !hides(pod.Labels),
		Runtime:   runtimes[c.Image],
		Port:      defaultPort,
		Resources: resources(c),
		Hostname:  hostname(pod),
		Container: c,
		Ignored:   ignored(pod),
	}
	if len(c.Ports) == 1 {
		f.Port = uint32(c.Ports[0].ContainerPort)
	}
	if text, ok := pod.Annotations[AnnotationExpose]; ok && text != "true" && text != "false" {
		return nil, unsupported("metadata.annotations["+AnnotationExpose+"]", `%q is neither "true" nor "false"`, text)
	}
	if text, ok := pod.Annotations[AnnotationIdleTimeout]; ok {
		timeout, err := time.ParseDuration(text)
		if err != nil || timeout < 0 {
			return nil, unsupported("metadata.annotations["+AnnotationIdleTimeout+"]",
				"%q is not a duration; write for example 90s or 10m, or 0s to never park the pod", text)
		}
		f.IdleTimeout = &timeout
	}
	var err error
	if f.Policy, err = readPolicy(pod, name); err != nil {
		return nil, err
	}
	if f.Command, err = commandOf(c); err != nil {
		return nil, err
	}
	if c.WorkingDir != "" {
		f.WorkingDir = path.Clean(c.WorkingDir)
	}
	if f.ParkServer, err = parkServer(pod); err != nil {
		return nil, err
	}
	if f.Mounts, err = volumeMounts(pod, c); err != nil {
		return nil, err
	}
	return f, nil
}

// readWithoutAnnotations reads a pod that an earlier control plane has run and whose
// annotations do not say what they said to it: by what cannot change, with defaults for
// the rest, and kept off the gateway if the annotation for that cannot be read. Nil: the
// pod has not run, or it is not its annotations that are wrong.
func readWithoutAnnotations(pod *corev1.Pod) *Function {
	if pod.Status.PodIP == "" {
		return nil
	}
	bare := *pod
	bare.Annotations = nil
	if text, ok := pod.Annotations[AnnotationExpose]; ok && text != "true" {
		bare.Annotations = map[string]string{AnnotationExpose: "false"}
	}
	f, err := ReadFunction(&bare)
	if err != nil {
		return nil
	}
	return f
}

// parkServer reads the annotation. A program that is not always restarted shall
// run to its end, and is never parked.
func parkServer(pod *corev1.Pod) (bool, error) {
	const field = "metadata.annotations[" + AnnotationPark + "]"
	switch text := pod.Annotations[AnnotationPark]; {
	case text == "" || text == "false":
		return false, nil
	case text != "true":
		return false, unsupported(field, `%q is neither "true" nor "false"`, text)
	case pod.Spec.RestartPolicy != "" && pod.Spec.RestartPolicy != corev1.RestartPolicyAlways:
		return false, unsupported(field, "a pod with restartPolicy %s is never parked; remove one of them", pod.Spec.RestartPolicy)
	}
	return true, nil
}

// functionName is the label's value, else the top controller's name, else the
// pod's. The owner is that controller, "Deployment/hello". A ReplicaSet's name ends
// in the pod-template-hash when a Deployment made it; without that the ReplicaSet
// itself is the top controller.
func functionName(pod *corev1.Pod) (name, owner string) {
	name = pod.Name
	if c := metav1.GetControllerOf(pod); c != nil {
		kind := c.Kind
		name = c.Name
		if hash := pod.Labels["pod-template-hash"]; kind == "ReplicaSet" && hash != "" {
			kind, name = "Deployment", strings.TrimSuffix(name, "-"+hash)
		}
		owner = kind + "/" + name
	}
	if label := pod.Labels[LabelFunction]; label != "" {
		name = label
	}
	return name, owner
}

// hostname is the pod's, at most 63 characters, as the kubelet cuts it.
func hostname(pod *corev1.Pod) string {
	if pod.Spec.Hostname != "" {
		return pod.Spec.Hostname
	}
	name := pod.Name
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// resources are a container's limits, and what it requests where Kubernetes is
// told, or has filled in, that.
func resources(c *corev1.Container) *agentv1.Resources {
	return &agentv1.Resources{
		MilliCpu:           c.Resources.Limits.Cpu().MilliValue(),
		MilliCpuRequest:    c.Resources.Requests.Cpu().MilliValue(),
		MemoryBytes:        c.Resources.Limits.Memory().Value(),
		MemoryRequestBytes: c.Resources.Requests.Memory().Value(),
		EphemeralBytes:     c.Resources.Limits.StorageEphemeral().Value(),
	}
}

// volumeMounts finds each mount's volume; the one at /function must be there
// and be a ConfigMap.
func volumeMounts(pod *corev1.Pod, c *corev1.Container) ([]VolumeMount, error) {
	var mounts []VolumeMount
	var code *corev1.Volume
	for i, m := range c.VolumeMounts {
		field := fmt.Sprintf("spec.containers[0].volumeMounts[%d]", i)
		at := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name })
		if at < 0 {
			return nil, unsupported(field, "there is no volume %q", m.Name)
		}
		volume := &pod.Spec.Volumes[at]
		mountPath := path.Clean(m.MountPath)
		switch {
		case m.SubPath != "" || m.SubPathExpr != "":
			return nil, unsupported(field+".subPath", "a part of a volume cannot be mounted yet; mount the whole volume at a folder of its own")
		case m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone:
			return nil, unsupported(field+".mountPropagation", "only None is supported; remove it")
		case !path.IsAbs(mountPath):
			return nil, unsupported(field+".mountPath", "%q is not an absolute path", m.MountPath)
		case mountPath == "/":
			return nil, unsupported(field+".mountPath", "a volume cannot be the container's root; mount it at a folder of its own")
		case slices.ContainsFunc(mounts, func(other VolumeMount) bool { return other.Path == mountPath }):
			return nil, unsupported(field+".mountPath", "another volume is mounted at %s already", mountPath)
		}
		if mountPath == codePath {
			if volume.ConfigMap == nil {
				return nil, unsupported(field, "what is mounted at %s is the function's code, and must be a ConfigMap", codePath)
			}
			code = volume
		}
		mounts = append(mounts, VolumeMount{Path: mountPath, Volume: volume})
	}
	if code == nil {
		return nil, unsupported("spec.containers[0].volumeMounts",
			"nothing is mounted at %[1]s; make a ConfigMap that holds index.js and mount it at %[1]s", codePath)
	}
	return mounts, nil
}

// ignored lists what a pod asks for that is accepted and not done yet.
func ignored(pod *corev1.Pod) []string {
	var all []string
	c := &pod.Spec.Containers[0]
	for _, probe := range []struct {
		name string
		set  bool
	}{
		{"readinessProbe", c.ReadinessProbe != nil},
		{"livenessProbe", c.LivenessProbe != nil},
		{"startupProbe", c.StartupProbe != nil},
	} {
		if probe.set {
			all = append(all, "spec.containers[0]."+probe.name+" is not run yet: the pod is Ready when its code has loaded")
		}
	}
	if c.Stdin || c.TTY {
		all = append(all, "spec.containers[0].stdin and tty have no effect: a function has no standard input; what is sent there is dropped")
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		all = append(all, "spec.ephemeralContainers are not run yet")
	}
	return append(all, unknownAnnotations(pod)...)
}
