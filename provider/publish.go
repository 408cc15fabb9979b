package provider

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// byFunction is the index of pods by namespace and function's name.
const byFunction = "function"

// reasonNameClash is the event of a pod whose function's name is another's.
const reasonNameClash = "NameClash"

// routeOf is the provider's part of a pod's route.
func (c *podController) routeOf(pod *corev1.Pod, f *Function) *routesv1.Route {
	return &routesv1.Route{
		Exposed:     f.Exposed && !c.hiddenNamespace(pod.Namespace),
		Owner:       f.Owner,
		CreatedUnix: pod.CreationTimestamp.Unix(),
		Policy:      f.Policy,
	}
}

// functionIndex finds a pod by its function.
func functionIndex(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, nil
	}
	name, _ := functionName(pod)
	return []string{pod.Namespace + "/" + name}, nil
}

// tellClash warns a pod whose function's name was that of another owner's pods
// before: the gateway serves neither while both are Ready, because nobody can say
// whose is meant.
func (c *podController) tellClash(pod *corev1.Pod, r *podRecord, f *Function) {
	if f == nil || !f.Exposed {
		r.clash = ""
		return
	}
	found, err := c.informer.GetIndexer().ByIndex(byFunction, pod.Namespace+"/"+f.Name)
	if err != nil {
		c.log.Error("clashes of names are not looked for", "error", err)
		return
	}
	clash := ""
	for _, obj := range found {
		other, ok := obj.(*corev1.Pod)
		if !ok || other.UID == pod.UID || !answers(other) {
			continue
		}
		_, owner := functionName(other)
		switch {
		case owner == f.Owner:
		case before(other, pod):
			clash = ownerText(owner, other)
		default:
			// It is the other's to be told; it may have been looked at before this
			// pod took the name.
			c.queue.Add(other.UID)
		}
	}
	if clash != "" && r.clash != clash {
		c.eventf(pod, corev1.EventTypeWarning, reasonNameClash,
			"Function %q of namespace %q is that of %s, which was there before: the gateway answers 409 for it while pods of both are Ready. Give one of them another name by the label %s, or keep it off the gateway by the annotation %s: \"false\"",
			f.Name, pod.Namespace, clash, LabelFunction, AnnotationExpose)
	}
	r.clash = clash
}

// answers says whether a pod may have a route at the gateway.
func answers(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !hides(pod.Annotations) && !hides(pod.Labels) &&
		pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// before orders pods by when they were made; the UID decides within a second.
func before(a, b *corev1.Pod) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID))) < 0
}

func ownerText(owner string, pod *corev1.Pod) string {
	if owner == "" {
		return fmt.Sprintf("pod %q", pod.Name)
	}
	return owner
}

func hides(m map[string]string) bool { return m[AnnotationExpose] == "false" }

// hiddenNamespace says whether a namespace is off the gateway: by its annotation or
// label, or because it is not known yet.
func (c *podController) hiddenNamespace(name string) bool {
	obj, ok, err := c.namespaceStore.GetByKey(name)
	if err != nil || !ok {
		return true
	}
	namespace, ok := obj.(*corev1.Namespace)
	return !ok || hides(namespace.Annotations) || hides(namespace.Labels)
}

// trimNamespace drops what nobody reads, before the informer keeps it.
func trimNamespace(obj any) (any, error) {
	namespace, ok := obj.(*corev1.Namespace)
	if !ok {
		return obj, nil
	}
	kept := &corev1.Namespace{}
	kept.Name, kept.UID, kept.ResourceVersion = namespace.Name, namespace.UID, namespace.ResourceVersion
	if hides(namespace.Annotations) || hides(namespace.Labels) {
		kept.Annotations = map[string]string{AnnotationExpose: "false"}
	}
	return kept, nil
}

// namespaceHandler has the pods of a namespace looked at when that comes, or changes
// whether it is hidden.
func (c *podController) namespaceHandler() cache.ResourceEventHandler {
	look := func(obj any) {
		namespace, ok := obj.(*corev1.Namespace)
		if !ok {
			return
		}
		for _, pod := range c.pods() {
			if pod.Namespace == namespace.Name {
				c.queue.Add(pod.UID)
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: look,
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*corev1.Namespace)
			is, also := obj.(*corev1.Namespace)
			if ok && also && hides(was.Annotations) != hides(is.Annotations) {
				look(obj)
			}
		},
	}
}
