package provider

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func policy(name string, labels map[string]string) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{MatchLabels: labels}},
	}
}

// policyEvents takes the events about policies.
func (w *world) policyEvents() (events []string) {
	w.settle()
	for {
		select {
		case event := <-w.events.Events:
			if strings.Contains(event, reasonPolicyIgnored) {
				events = append(events, event)
			}
		default:
			return events
		}
	}
}

func (w *world) wantPolicyEvent(when, name string) {
	w.t.Helper()
	events := w.policyEvents()
	if len(events) != 1 || !strings.HasPrefix(events[0], "Warning") || !strings.Contains(events[0], `NetworkPolicy "`+name+`"`) {
		w.t.Errorf("%s: %q, want one warning about %q", when, events, name)
	}
}

func TestAPolicyThatSelectsAPodIsToldToIt(t *testing.T) {
	inWorld(t, []runtime.Object{code(), policy("of-others", map[string]string{"app": "other"}), policy("all", nil)}, func(w *world) {
		policies := w.client.NetworkingV1().NetworkPolicies("default")
		pod := hello()
		pod.Labels = map[string]string{"app": "hello"}
		pod.CreationTimestamp = metav1.NewTime(time.Now())
		if _, err := w.client.CoreV1().Pods("default").Create(w.t.Context(), pod, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.wantPolicyEvent("a new pod", "all")

		if _, err := policies.Create(w.t.Context(), policy("new", map[string]string{"app": "hello"}), metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.wantPolicyEvent("a new policy", "new")

		changed := policy("of-others", map[string]string{"app": "hello"})
		if _, err := policies.Update(w.t.Context(), changed, metav1.UpdateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		w.wantPolicyEvent("a policy of others that is changed", "of-others")

		changed.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{}}
		if _, err := policies.Update(w.t.Context(), changed, metav1.UpdateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		elsewhere := policy("elsewhere", nil)
		elsewhere.Namespace = "other"
		if _, err := w.client.NetworkingV1().NetworkPolicies("other").Create(w.t.Context(), elsewhere, metav1.CreateOptions{}); err != nil {
			w.t.Fatal(err)
		}
		if events := w.policyEvents(); len(events) != 0 {
			w.t.Errorf("told again, or of another namespace: %q", events)
		}
	})
}

// A control plane that starts again does not tell old news.
func TestOldNewsOfPoliciesIsNotTold(t *testing.T) {
	pod := hello()
	pod.Status.PodIP, pod.Status.Phase = "10.245.9.9", corev1.PodRunning
	inWorld(t, []runtime.Object{code(), pod, policy("all", nil)}, func(w *world) {
		if events := w.policyEvents(); len(events) != 0 {
			w.t.Errorf("%q", events)
		}
	})
}
