package provider

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func TestTheNodeTellsOfWarmContainers(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	well := &agentv1.PoolStatus{Runtime: "node24", Warm: 4, Leased: 2}
	ill := &agentv1.PoolStatus{Runtime: "node24", Warming: 1, FailuresInARow: 3, StartFailures: 9, LastFailure: "start a container of node24: no space left on device" + strings.Repeat("x", 500)}
	recovered := &agentv1.PoolStatus{Runtime: "node24", Warm: 1, StartFailures: 9, LastFailure: ill.GetLastFailure()}
	var c corev1.NodeCondition
	for i, step := range []struct {
		pools   map[string][]*agentv1.PoolStatus
		status  corev1.ConditionStatus
		reason  string
		message string
		moved   bool
	}{
		{nil, corev1.ConditionUnknown, "NoAgent", "no agent is connected", true},
		{map[string][]*agentv1.PoolStatus{"b": {well}, "a": {well}}, corev1.ConditionTrue, "ContainersStart", "a: node24 4 warm, 0 starting, 2 leased; b: node24 4 warm, 0 starting, 2 leased", true},
		{map[string][]*agentv1.PoolStatus{"a": {well}}, corev1.ConditionTrue, "ContainersStart", "a: node24 4 warm, 0 starting, 2 leased", false},
		{map[string][]*agentv1.PoolStatus{"a": {well}, "b": {ill}}, corev1.ConditionFalse, "ContainersFailToStart", "b: node24 0 warm, 1 starting, 0 leased, 3 failed in a row: start a container of node24: no space left on device", true},
		{map[string][]*agentv1.PoolStatus{"a": {well}, "b": {recovered}}, corev1.ConditionTrue, "ContainersStart", "b: node24 1 warm, 0 starting, 0 leased", true},
	} {
		now := begin.Add(time.Duration(i) * time.Minute)
		next := warmth(step.pools, c, now)
		if next.Status != step.status || next.Reason != step.reason || !strings.Contains(next.Message, step.message) {
			t.Errorf("step %d: %s %s %q, want %s %s …%q…", i, next.Status, next.Reason, next.Message, step.status, step.reason, step.message)
		}
		if moved := next.LastTransitionTime.Time.Equal(now); moved != step.moved {
			t.Errorf("step %d: transition at this moment: %t, want %t", i, moved, step.moved)
		}
		if len(next.Message) > 500 {
			t.Errorf("step %d: a message of %d bytes", i, len(next.Message))
		}
		if sameWarmth(c, next) {
			t.Errorf("step %d: told as no news", i)
		}
		c = next
	}
}
