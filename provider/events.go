package provider

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/reference"
)

// eventf records an event about the pod's container, as the kubelet does.
func (c *podController) eventf(pod *corev1.Pod, kind, reason, format string, args ...any) {
	field := ""
	if len(pod.Spec.Containers) == 1 {
		field = fmt.Sprintf("spec.containers{%s}", pod.Spec.Containers[0].Name)
	}
	ref, err := reference.GetPartialReference(scheme.Scheme, pod, field)
	if err != nil {
		c.log.Error("an event has no reference", "pod", podKey(pod), "error", err)
		return
	}
	c.events.Eventf(ref, kind, reason, format, args...)
}

// warn records a warning unless it is the last one again.
func (c *podController) warn(pod *corev1.Pod, r *podRecord, reason, message string) {
	if told := reason + ": " + message; r.told != told {
		r.told = told
		c.eventf(pod, corev1.EventTypeWarning, reason, "%s", cut(message))
	}
}

// tell records what a new status means, seen from the one that is written: so a
// provider that starts again does not tell old news.
func (c *podController) tell(pod *corev1.Pod, next corev1.PodStatus) {
	for i, cs := range next.ContainerStatuses {
		before := corev1.ContainerStatus{}
		if i < len(pod.Status.ContainerStatuses) {
			before = pod.Status.ContainerStatuses[i]
		}
		switch {
		case cs.Ready && !before.Ready:
			c.eventf(pod, corev1.EventTypeNormal, "Started", "Function loaded and ready")
		case cs.State.Waiting != nil && cs.State.Waiting.Reason == reasonCrashLoop:
			last := before.LastTerminationState.Terminated
			if last == nil || last.Message != cs.LastTerminationState.Terminated.Message {
				c.eventf(pod, corev1.EventTypeWarning, "Failed", "%s", cs.State.Waiting.Message)
			} else if before.RestartCount != cs.RestartCount {
				c.eventf(pod, corev1.EventTypeWarning, "BackOff", "Back-off loading the function again: %s", cs.State.Waiting.Message)
			}
		}
	}
}
