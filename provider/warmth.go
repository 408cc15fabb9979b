package provider

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// ConditionWarmContainers is the virtual node's condition that `kubectl describe
// node` shows of the agents' pools: False while containers fail to start somewhere,
// Unknown while no agent is connected.
const ConditionWarmContainers corev1.NodeConditionType = "WarmContainers"

// maxFailureText bounds what is told of one node's failure.
const maxFailureText = 200

// warmth is the condition of the agents' pools now. Before is what was told last;
// its transition stands where the status has not changed.
func warmth(pools map[string][]*agentv1.PoolStatus, before corev1.NodeCondition, now time.Time) corev1.NodeCondition {
	c := corev1.NodeCondition{
		Type: ConditionWarmContainers, Status: corev1.ConditionTrue, Reason: "ContainersStart",
		LastHeartbeatTime: metav1.NewTime(now), LastTransitionTime: before.LastTransitionTime,
	}
	var parts []string
	for _, node := range slices.Sorted(maps.Keys(pools)) {
		for _, p := range pools[node] {
			text := fmt.Sprintf("%s: %s %d warm, %d starting, %d leased", node, p.GetRuntime(), p.GetWarm(), p.GetWarming(), p.GetLeased())
			if n := p.GetFailuresInARow(); n > 0 {
				c.Status, c.Reason = corev1.ConditionFalse, "ContainersFailToStart"
				text += fmt.Sprintf(", %d failed in a row: %.*s", n, maxFailureText, p.GetLastFailure())
			}
			parts = append(parts, text)
		}
	}
	c.Message = strings.Join(parts, "; ")
	if len(parts) == 0 {
		c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NoAgent", "no agent is connected; see the pods of the agent's DaemonSet"
	}
	if c.Status != before.Status {
		c.LastTransitionTime = metav1.NewTime(now)
	}
	return c
}

// sameWarmth reports whether two conditions tell people the same.
func sameWarmth(a, b corev1.NodeCondition) bool {
	return a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
}
