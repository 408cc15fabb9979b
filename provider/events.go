package provider

import (
	"fmt"
	"strings"

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
		if cs.Ready && !before.Ready {
			c.eventf(pod, corev1.EventTypeNormal, "Started", "Function loaded and ready")
		}
		if reason, sentence := failureEvent(before, cs); reason != "" {
			c.eventf(pod, corev1.EventTypeWarning, reason, "%s", sentence)
		}
	}
}

// failureEvent is the event of a container that has failed since it was as
// before: one line for each end of a container, and for each new reason why it
// cannot be made. The reason is empty if there is nothing to tell.
func failureEvent(before, cs corev1.ContainerStatus) (reason, sentence string) {
	last, told := cs.LastTerminationState.Terminated, before.LastTerminationState.Terminated
	switch waiting := cs.State.Waiting; {
	case last != nil && told == nil, last != nil && last.Message != told.Message:
		return "Failed", firstLine(last.Message)
	case last != nil && !last.FinishedAt.Equal(&told.FinishedAt):
		if waiting != nil && waiting.Reason == reasonCrashLoop {
			return "BackOff", "Back-off restarting the function: " + firstLine(last.Message)
		}
		return "Failed", firstLine(last.Message)
	case waiting != nil && waiting.Reason == reasonCreateError:
		if w := before.State.Waiting; w == nil || w.Message != waiting.Message {
			return "Failed", firstLine(waiting.Message)
		}
	}
	return "", ""
}

func firstLine(message string) string {
	line, _, _ := strings.Cut(message, "\n")
	return line
}

// policyIgnored records that a policy for the pod is not enforced.
func (c *podController) policyIgnored(pod *corev1.Pod, message string) {
	c.eventf(pod, corev1.EventTypeWarning, reasonPolicyIgnored, "%s", message)
}
