package provider

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

var (
	noon  = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	later = noon.Add(time.Hour)
)

func lease(state agentv1.PodState, reason, message string) *agentv1.PodStatus {
	return &agentv1.PodStatus{PodUid: "uid-hello", State: state, Reason: reason, Message: message}
}

// ended is a lease whose container ran from noon on and ended by itself, within
// the hour.
func ended(state agentv1.PodState, end *agentv1.Termination, after time.Duration) *agentv1.PodStatus {
	s := lease(state, "", "")
	if state == agentv1.PodState_POD_STATE_FAILED {
		s.Reason, s.Message = end.GetReason(), end.GetMessage()
	}
	end.StartedAt, end.FinishedAt = timestamppb.New(noon), timestamppb.New(noon.Add(after))
	s.LastTermination = end
	return s
}

func end(reason, message string, code, signal int32) *agentv1.Termination {
	return &agentv1.Termination{Reason: reason, Message: message, ExitCode: code, Signal: signal}
}

// brief is a status in few words, as golden text.
func brief(s corev1.PodStatus) string {
	var b strings.Builder
	b.WriteString(string(s.Phase))
	for _, c := range s.Conditions {
		b.WriteString(" " + string(c.Type) + "=" + string(c.Status))
		if c.Reason != "" {
			b.WriteString("(" + c.Reason + ")")
		}
	}
	for _, c := range s.ContainerStatuses {
		switch {
		case c.State.Running != nil:
			b.WriteString(" running")
		case c.State.Waiting != nil:
			b.WriteString(" waiting:" + c.State.Waiting.Reason + ":" + c.State.Waiting.Message)
		case c.State.Terminated != nil:
			b.WriteString(" terminated:" + c.State.Terminated.Reason)
		}
		if last := c.LastTerminationState.Terminated; last != nil {
			fmt.Fprintf(&b, " last:%s(%d):%s", last.Reason, last.ExitCode, last.Message)
		}
	}
	return b.String()
}

func TestPodStatus(t *testing.T) {
	const notReady = " Initialized=True ContainersReady=False(ContainersNotReady) Ready=False(ContainersNotReady) PodScheduled=True "
	gated := hello(func(p *corev1.Pod) {
		p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/ok"}}
	})
	for _, tt := range []struct {
		name string
		pod  *corev1.Pod
		s    situation
		want string
	}{
		{"no lease", hello(), situation{}, "Pending PodReadyToStartContainers=False" + notReady + "waiting:ContainerCreating:"},
		{"unsupported", hello(), situation{waiting: reasonUnsupported, message: "why"}, "Pending PodReadyToStartContainers=False" + notReady + "waiting:Unsupported:why"},
		{"preparing", hello(), situation{lease: lease(agentv1.PodState_POD_STATE_PREPARING, "NoAgent", "none has room")},
			"Pending PodReadyToStartContainers=True" + notReady + "waiting:ContainerCreating:NoAgent: none has room"},
		{"active", hello(), situation{lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")},
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True PodScheduled=True running"},
		{"parked", hello(), situation{lease: lease(agentv1.PodState_POD_STATE_PARKED, "", "")},
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True PodScheduled=True running"},
		{"gate", gated, situation{lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")},
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=False(ReadinessGatesNotReady) PodScheduled=True running"},
		{"failed", hello(), situation{lease: ended(agentv1.PodState_POD_STATE_FAILED, end("SyntaxError", "index.js:1", 1, 0), 0)},
			"Running PodReadyToStartContainers=True" + notReady + "waiting:CrashLoopBackOff:SyntaxError: index.js:1 last:Error(1):SyntaxError: index.js:1"},
		{"never made", hello(), situation{lease: lease(agentv1.PodState_POD_STATE_FAILED, "BundleFetchFailed", "none")},
			"Pending PodReadyToStartContainers=True" + notReady + "waiting:CreateContainerError:BundleFetchFailed: none"},
		{"out of memory", hello(), situation{lease: ended(agentv1.PodState_POD_STATE_FAILED, end("OOMKilled", "64 MiB", 137, 9), 0)},
			"Running PodReadyToStartContainers=True" + notReady + "waiting:CrashLoopBackOff:OOMKilled: 64 MiB last:OOMKilled(137):OOMKilled: 64 MiB"},
		{"blocked, and replaced", hello(), situation{lease: ended(agentv1.PodState_POD_STATE_PARKED, end("EventLoopBlocked", "30s", 137, 9), 0)},
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True PodScheduled=True running last:Error(137):EventLoopBlocked: 30s"},
		{"exited without a failure", hello(), situation{lease: ended(agentv1.PodState_POD_STATE_PARKED, end("Exited", "process.exit(0)", 0, 0), 0)},
			"Running PodReadyToStartContainers=True Initialized=True ContainersReady=True Ready=True PodScheduled=True running last:Completed(0):Exited: process.exit(0)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.s.now = noon
			if diff := cmp.Diff(tt.want, brief(podStatus(tt.pod, tt.s))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestPodStatusIsWhatAKubeletWrites(t *testing.T) {
	pod := hello()
	got := podStatus(pod, situation{now: noon, hostIP: "10.0.0.1", podIPs: podIPs{"10.245.0.5"}, lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")})
	at, started := metav1.NewTime(noon), true
	cond := func(kind corev1.PodConditionType) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: at, ObservedGeneration: 1}
	}
	want := corev1.PodStatus{
		ObservedGeneration: 1, Phase: corev1.PodRunning, StartTime: &at,
		HostIP: "10.0.0.1", HostIPs: []corev1.HostIP{{IP: "10.0.0.1"}},
		PodIP: "10.245.0.5", PodIPs: []corev1.PodIP{{IP: "10.245.0.5"}},
		Conditions: []corev1.PodCondition{
			cond(corev1.PodReadyToStartContainers), cond(corev1.PodInitialized), cond(corev1.ContainersReady),
			cond(corev1.PodReady), cond(corev1.PodScheduled),
		},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "hello", Image: "sanfran/node:24", ImageID: "sanfran://node24", ContainerID: "sanfran://uid-hello",
			Ready: true, Started: &started, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at}},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// The same situation an hour later is the same status: times are of transitions.
func TestPodStatusKeepsTimes(t *testing.T) {
	for _, state := range []*agentv1.PodStatus{
		nil, lease(agentv1.PodState_POD_STATE_ACTIVE, "", ""), ended(agentv1.PodState_POD_STATE_FAILED, end("SyntaxError", "x", 1, 0), time.Minute),
	} {
		pod := hello()
		pod.Status = podStatus(pod, situation{now: noon, lease: state})
		again := podStatus(pod, situation{now: later, lease: state})
		if patch, err := statusPatch(pod, again); patch != nil || err != nil {
			t.Errorf("%v: patch %s, %v; want none", state, patch, err)
		}
	}
}

func TestPodStatusOverTime(t *testing.T) {
	pod := hello()
	pod.Status.QOSClass = corev1.PodQOSBurstable
	pod.Status.Conditions = []corev1.PodCondition{{Type: "example.com/ok", Status: corev1.ConditionTrue}}
	pod.Status = podStatus(pod, situation{now: noon, lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")})
	failed := ended(agentv1.PodState_POD_STATE_FAILED, end("Exited", "exit code 1", 1, 0), time.Hour)
	failed.RestartCount = 1
	pod.Status = podStatus(pod, situation{now: later, lease: failed})
	last := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if !last.StartedAt.Time.Equal(noon) || !last.FinishedAt.Time.Equal(later) || pod.Status.ContainerStatuses[0].RestartCount != 1 {
		t.Errorf("the last container ran from %v to %v, restarts %d", last.StartedAt, last.FinishedAt, pod.Status.ContainerStatuses[0].RestartCount)
	}
	pod.Status = podStatus(pod, situation{now: later, lease: lease(agentv1.PodState_POD_STATE_PREPARING, "", "")})
	if pod.Status.Phase != corev1.PodRunning {
		t.Errorf("phase went back to %s", pod.Status.Phase)
	}
	if pod.Status.QOSClass != corev1.PodQOSBurstable || condition(&pod.Status, "example.com/ok") == nil {
		t.Error("what others wrote is lost")
	}
}

func TestStatusPatchTouchesOnlyItsOwn(t *testing.T) {
	pod := hello()
	pod.Status.Conditions = []corev1.PodCondition{{Type: "example.com/ok", Status: corev1.ConditionTrue}}
	patch, err := statusPatch(pod, podStatus(pod, situation{now: noon, lease: lease(agentv1.PodState_POD_STATE_ACTIVE, "", "")}))
	if err != nil {
		t.Fatal(err)
	}
	text := string(patch)
	if strings.Contains(text, `"type":"example.com/ok","`) || strings.Contains(text, `"status":"True","type":"example.com/ok"`) || strings.Contains(text, `"$patch"`) {
		t.Errorf("the patch writes or removes another's condition: %s", text)
	}
	if !strings.Contains(text, `"uid":"uid-hello"`) {
		t.Errorf("the patch does not name the UID: %s", text)
	}
}

func TestEndedStatus(t *testing.T) {
	for _, tt := range []struct {
		lease *agentv1.PodStatus
		want  string
	}{
		{lease(agentv1.PodState_POD_STATE_ACTIVE, "", ""), "Succeeded PodReadyToStartContainers=True Initialized=True ContainersReady=False(PodCompleted) Ready=False(PodCompleted) PodScheduled=True terminated:Completed"},
		// A Job must not take code that never loaded for done.
		{ended(agentv1.PodState_POD_STATE_FAILED, end("SyntaxError", "", 1, 0), 0), "Failed PodReadyToStartContainers=True Initialized=True ContainersReady=False(PodFailed) Ready=False(PodFailed) PodScheduled=True terminated:ContainerStatusUnknown last:Error(1):SyntaxError"},
	} {
		pod := hello()
		pod.Status = podStatus(pod, situation{now: noon, lease: tt.lease})
		for range 2 { // it is looked at again when it has been written
			pod.Status = endedStatus(pod, later)
			if diff := cmp.Diff(tt.want, brief(pod.Status)); diff != "" {
				t.Error(diff)
			}
		}
	}
}

// Every end of a container is one event of one line; what is told again is none.
func TestFailureEvents(t *testing.T) {
	pod := hello()
	const failed, parked, active = agentv1.PodState_POD_STATE_FAILED, agentv1.PodState_POD_STATE_PARKED, agentv1.PodState_POD_STATE_ACTIVE
	for i, step := range []struct {
		lease *agentv1.PodStatus
		want  string
	}{
		{lease(failed, "BundleFetchFailed", "none\nmore"), "Failed BundleFetchFailed: none"},
		{lease(failed, "BundleFetchFailed", "none\nmore"), " "},
		{lease(active, "", ""), " "},
		{ended(parked, end("Exited", "process.exit(3)\nlast output", 3, 0), time.Minute), "Failed Exited: process.exit(3)"},
		{ended(parked, end("Exited", "process.exit(3)\nlast output", 3, 0), time.Minute), " "},
		{ended(active, end("Exited", "process.exit(3)\nlast output", 3, 0), time.Minute), " "},
		{ended(parked, end("Exited", "process.exit(3)\nlast output", 3, 0), 2*time.Minute), "Failed Exited: process.exit(3)"},
		{ended(failed, end("Exited", "process.exit(3)\nlast output", 3, 0), 3*time.Minute), "BackOff Back-off restarting the function: Exited: process.exit(3)"},
		{ended(failed, end("OOMKilled", "memory", 137, 9), 4*time.Minute), "Failed OOMKilled: memory"},
		{lease(active, "", ""), " "}, // an agent that does not know
		{ended(active, end("OOMKilled", "memory", 137, 9), 4*time.Minute), " "},
	} {
		next := podStatus(pod, situation{now: noon, lease: step.lease})
		var before corev1.ContainerStatus
		if len(pod.Status.ContainerStatuses) > 0 {
			before = pod.Status.ContainerStatuses[0]
		}
		reason, sentence := failureEvent(before, next.ContainerStatuses[0])
		if got := reason + " " + sentence; got != step.want {
			t.Errorf("step %d: %q, want %q", i, got, step.want)
		}
		pod.Status = next
	}
}
