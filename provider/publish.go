package provider

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

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

// tellClash warns a pod whose function's name was that of another owner's pods
// before: the gateway serves neither while both are Ready, because nobody can say
// whose is meant.
func (c *podController) tellClash(pod *corev1.Pod, r *podRecord, f *Function) {
	if f == nil {
		return // what runs, runs on, under the name it has
	}
	if !f.Exposed {
		c.claims.drop(pod.UID)
		r.clash = ""
		return
	}
	own, others, news := c.claims.take(pod, f)
	clash := ""
	for _, other := range others {
		switch {
		case other.before(own):
			clash = other.String()
		case news:
			// It is the other's to be told; it may have been looked at before this
			// pod took the name. Once is enough: of two owners with many pods, each
			// look at one would have most of all looked at.
			c.queue.Add(other.uid)
		}
	}
	if clash != "" && r.clash == "" {
		c.eventf(pod, corev1.EventTypeWarning, reasonNameClash,
			"Function %q of namespace %q is that of %s, which was there before: the gateway answers 409 for it while pods of both are Ready. Give one of them another name by the label %s, or keep it off the gateway by the annotation %s: \"false\"",
			f.Name, pod.Namespace, clash, LabelFunction, AnnotationExpose)
	}
	r.clash = clash
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
// whether it is hidden. What is there at the start is known before any pod is looked
// at.
func (c *podController) namespaceHandler() cache.ResourceEventHandler {
	look := func(obj any) {
		namespace, ok := obj.(*corev1.Namespace)
		if !ok {
			return
		}
		pods, err := c.informer.GetIndexer().ByIndex(cache.NamespaceIndex, namespace.Name)
		if err != nil {
			c.log.Error("pods of a changed namespace are not looked at", "namespace", namespace.Name, "error", err)
		}
		for _, obj := range pods {
			if pod, ok := obj.(*corev1.Pod); ok {
				c.queue.Add(pod.UID)
			}
		}
	}
	return cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, first bool) {
			if !first {
				look(obj)
			}
		},
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*corev1.Namespace)
			is, also := obj.(*corev1.Namespace)
			if ok && also && hides(was.Annotations) != hides(is.Annotations) {
				look(obj)
			}
		},
	}
}
