package provider

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// Reasons a container waits for, as kubectl shows them. The kubelet's own words
// are used where it has one.
const (
	reasonCreating     = "ContainerCreating"
	reasonConfigError  = "CreateContainerConfigError"
	reasonCreateError  = "CreateContainerError"
	reasonCrashLoop    = "CrashLoopBackOff"
	reasonUnsupported  = "Unsupported"
	reasonNoAddress    = "NoPodAddress"
	reasonOutOfMemory  = "OOMKilled"
	maxMessage         = 2048
	conditionReadiness = "ReadinessGatesNotReady"
	conditionContainer = "ContainersNotReady"
)

// situation is what a pod's status follows from, beside the pod itself.
type situation struct {
	now    time.Time
	hostIP string
	// podIPs is empty until the pod has an address.
	podIPs podIPs
	// lease is how the pod is at its home; nil while it has none.
	lease *agentv1.PodStatus
	// waiting and message say why the pod has no lease.
	waiting, message string
}

// podStatus is the status a kubelet would write. Conditions of others and
// fields that are not a kubelet's stay as they are in pod.
func podStatus(pod *corev1.Pod, s situation) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	now := metav1.NewTime(s.now.Truncate(time.Second))
	status.ObservedGeneration = pod.Generation
	if status.StartTime == nil {
		status.StartTime = &now
	}
	if s.hostIP != "" {
		status.HostIP = s.hostIP
		status.HostIPs = []corev1.HostIP{{IP: s.hostIP}}
	}
	if len(s.podIPs) > 0 {
		status.PodIP, status.PodIPs = s.podIPs.first(), nil
		for _, ip := range s.podIPs {
			status.PodIPs = append(status.PodIPs, corev1.PodIP{IP: ip})
		}
	}

	var names []string
	ready := len(pod.Spec.Containers) > 0
	containers := make([]corev1.ContainerStatus, 0, len(pod.Spec.Containers))
	for _, c := range pod.Spec.Containers {
		cs := containerStatus(pod, c, s, now)
		containers = append(containers, cs)
		if !cs.Ready {
			ready = false
			names = append(names, c.Name)
		}
	}
	status.ContainerStatuses = containers
	status.Phase = phase(pod.Status.Phase, containers)

	set := func(kind corev1.PodConditionType, ok bool, reason, message string) {
		setCondition(&status, kind, ok, reason, message, now, pod.Generation)
	}
	set(corev1.PodReadyToStartContainers, s.lease != nil, "", "")
	set(corev1.PodInitialized, true, "", "")
	reason, message := "", ""
	if !ready {
		reason, message = conditionContainer, fmt.Sprintf("containers with unready status: [%s]", strings.Join(names, " "))
	}
	set(corev1.ContainersReady, ready, reason, message)
	if ready {
		if gates := unmetGates(pod); len(gates) > 0 {
			ready, reason = false, conditionReadiness
			message = fmt.Sprintf("the status of pod readiness gate(s) is not True: %s", strings.Join(gates, ", "))
		}
	}
	set(corev1.PodReady, ready, reason, message)
	// The scheduler wrote PodScheduled, unless the pod was made with its node.
	if condition(&status, corev1.PodScheduled) == nil {
		set(corev1.PodScheduled, true, "", "")
	}
	return status
}

// phase never goes back from Running: a container that has run once is one that
// waits to run again.
func phase(before corev1.PodPhase, containers []corev1.ContainerStatus) corev1.PodPhase {
	if before == corev1.PodRunning {
		return corev1.PodRunning
	}
	for _, c := range containers {
		if c.State.Running != nil || c.LastTerminationState.Terminated != nil {
			return corev1.PodRunning
		}
	}
	return corev1.PodPending
}

func containerStatus(pod *corev1.Pod, c corev1.Container, s situation, now metav1.Time) corev1.ContainerStatus {
	before := corev1.ContainerStatus{}
	if i := slices.IndexFunc(pod.Status.ContainerStatuses, func(cs corev1.ContainerStatus) bool { return cs.Name == c.Name }); i >= 0 {
		before = pod.Status.ContainerStatuses[i]
	}
	cs := corev1.ContainerStatus{
		Name: c.Name, Image: c.Image,
		LastTerminationState: before.LastTerminationState,
		RestartCount:         max(before.RestartCount, s.lease.GetRestartCount()),
		Started:              new(bool),
	}
	if ended := s.lease.GetLastTermination(); ended != nil {
		if last := terminated(before, ended); cs.LastTerminationState.Terminated == nil || !last.FinishedAt.Before(&cs.LastTerminationState.Terminated.FinishedAt) {
			cs.LastTerminationState.Terminated = last
		}
	}
	wait := func(reason, message string) {
		cs.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: cut(message)}
	}
	if s.lease == nil {
		reason := s.waiting
		if reason == "" {
			reason = reasonCreating
		}
		wait(reason, s.message)
		return cs
	}
	cs.ImageID = "sanfran://" + runtimes[c.Image]
	switch s.lease.GetState() {
	case agentv1.PodState_POD_STATE_ACTIVE, agentv1.PodState_POD_STATE_PARKED:
		// The lease's id would be a secret; the pod's UID names what runs.
		cs.ContainerID = "sanfran://" + string(pod.UID)
		cs.Ready, *cs.Started = true, true
		started := now
		switch {
		case before.State.Running != nil:
			started = before.State.Running.StartedAt
		case s.lease.GetStartedAt() != nil:
			started = metav1.NewTime(s.lease.GetStartedAt().AsTime().Truncate(time.Second))
		}
		cs.State.Running = &corev1.ContainerStateRunning{StartedAt: started}
	case agentv1.PodState_POD_STATE_FAILED:
		// As with the kubelet, what has never run did not crash.
		reason := reasonCreateError
		if cs.LastTerminationState.Terminated != nil {
			reason = reasonCrashLoop
		}
		wait(reason, failure(s.lease))
	default:
		message := s.lease.GetMessage()
		if reason := s.lease.GetReason(); reason != "" {
			message = strings.TrimSuffix(reason+": "+message, ": ")
		}
		wait(reasonCreating, message)
	}
	return cs
}

// failure is one text of a lease's reason and message.
func failure(lease *agentv1.PodStatus) string { return oneText(lease.GetReason(), lease.GetMessage()) }

func oneText(reason, message string) string {
	switch {
	case message == "":
		return reason
	case reason == "" || strings.HasPrefix(message, reason):
		return message
	}
	return reason + ": " + message
}

// terminated tells how the last container ended that ended by itself.
func terminated(before corev1.ContainerStatus, end *agentv1.Termination) *corev1.ContainerStateTerminated {
	at := func(t *timestamppb.Timestamp) metav1.Time { return metav1.NewTime(t.AsTime().Truncate(time.Second)) }
	t := &corev1.ContainerStateTerminated{
		ExitCode: end.GetExitCode(), Signal: end.GetSignal(), Message: cut(oneText(end.GetReason(), end.GetMessage())),
		StartedAt: at(end.GetStartedAt()), FinishedAt: at(end.GetFinishedAt()), ContainerID: before.ContainerID,
	}
	switch {
	case end.GetReason() == reasonOutOfMemory:
		t.Reason = reasonOutOfMemory
	case t.ExitCode == 0:
		t.Reason = "Completed"
	default:
		t.Reason = "Error"
	}
	if last := before.LastTerminationState.Terminated; last != nil && last.FinishedAt.Equal(&t.FinishedAt) {
		t.ContainerID = last.ContainerID // the same end told again
	}
	return t
}

func cut(message string) string {
	if len(message) <= maxMessage {
		return message
	}
	return strings.ToValidUTF8(message[:maxMessage], "") + "…"
}

// unmetGates are the pod's readiness gates that nobody has set True.
func unmetGates(pod *corev1.Pod) []string {
	var unmet []string
	for _, gate := range pod.Spec.ReadinessGates {
		if c := condition(&pod.Status, gate.ConditionType); c == nil || c.Status != corev1.ConditionTrue {
			unmet = append(unmet, string(gate.ConditionType))
		}
	}
	return unmet
}

func condition(status *corev1.PodStatus, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

// setCondition keeps the time of the last transition while the status stays.
func setCondition(status *corev1.PodStatus, kind corev1.PodConditionType, ok bool, reason, message string, now metav1.Time, generation int64) {
	next := corev1.PodCondition{
		Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: now, ObservedGeneration: generation,
	}
	if ok {
		next.Status = corev1.ConditionTrue
	}
	c := condition(status, kind)
	if c == nil {
		status.Conditions = append(status.Conditions, next)
		return
	}
	if c.Status == next.Status {
		next.LastTransitionTime = c.LastTransitionTime
	}
	next.LastProbeTime = c.LastProbeTime
	*c = next
}

// endedStatus is the status of a pod whose lease has ended for good, so that
// controllers which hold the object with a finalizer see that it runs no more.
// One that did not run at the end has not succeeded: a Job must not count it.
func endedStatus(pod *corev1.Pod, now time.Time) corev1.PodStatus {
	status := *pod.Status.DeepCopy()
	at := metav1.NewTime(now.Truncate(time.Second))
	status.ObservedGeneration = pod.Generation
	ran := len(status.ContainerStatuses) > 0
	for i := range status.ContainerStatuses {
		cs := &status.ContainerStatuses[i]
		if cs.State.Terminated != nil {
			continue
		}
		end := &corev1.ContainerStateTerminated{Reason: "Completed", FinishedAt: at, ContainerID: cs.ContainerID}
		if cs.State.Running != nil {
			end.StartedAt = cs.State.Running.StartedAt
		} else {
			// The kubelet's own words for it.
			ran = false
			end.Reason, end.ExitCode, end.Message = "ContainerStatusUnknown", 137, "The container did not run when the pod was deleted"
		}
		cs.Ready, cs.Started = false, new(bool)
		cs.State = corev1.ContainerState{Terminated: end}
	}
	switch {
	case status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed:
	case ran:
		status.Phase = corev1.PodSucceeded
	default:
		status.Phase = corev1.PodFailed
	}
	reason := "PodCompleted"
	if status.Phase == corev1.PodFailed {
		reason = "PodFailed"
	}
	setCondition(&status, corev1.ContainersReady, false, reason, "", at, pod.Generation)
	setCondition(&status, corev1.PodReady, false, reason, "", at, pod.Generation)
	return status
}
