package provider

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
)

// reasonPolicyIgnored is the reason of the events about NetworkPolicies.
const reasonPolicyIgnored = "NetworkPolicyNotEnforced"

// policies tells pods that a NetworkPolicy selects them, which holds for no function
// pod: whoever wrote it believes it does. The zero value is not usable; its methods
// may be called from several goroutines.
type policies struct {
	client kubernetes.Interface
	// since is when this process began: pods and policies that were there together
	// before have been told by an earlier one.
	since time.Time
	// pods are the function pods of a namespace, warn records an event of one.
	pods func(namespace string) []*corev1.Pod
	warn func(pod *corev1.Pod, message string)

	factory informers.SharedInformerFactory
	lister  networkinglisters.NetworkPolicyLister
}

func newPolicies(client kubernetes.Interface, since time.Time, pods func(string) []*corev1.Pod, warn func(*corev1.Pod, string)) *policies {
	p := &policies{client: client, since: since, pods: pods, warn: warn}
	p.factory = informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(trimPolicy))
	p.lister = p.factory.Networking().V1().NetworkPolicies().Lister()
	return p
}

// run watches policies until ctx ends.
func (p *policies) run(ctx context.Context) error {
	informer := p.factory.Networking().V1().NetworkPolicies().Informer()
	if _, err := informer.AddEventHandler(policyHandler{p}); err != nil {
		return fmt.Errorf("watch NetworkPolicies: %w", err)
	}
	p.factory.StartWithContext(ctx)
	defer p.factory.Shutdown()
	<-ctx.Done()
	return nil
}

// policyHandler is told what becomes of policies.
type policyHandler struct{ *policies }

// OnAdd is called at the start for every policy that is there.
func (h policyHandler) OnAdd(obj any, initial bool) {
	if policy, ok := obj.(*networkingv1.NetworkPolicy); ok {
		h.told(policy, initial)
	}
}

func (h policyHandler) OnUpdate(before, now any) {
	policy, ok := now.(*networkingv1.NetworkPolicy)
	former, had := before.(*networkingv1.NetworkPolicy)
	if ok && (!had || !equality.Semantic.DeepEqual(former.Spec.PodSelector, policy.Spec.PodSelector)) {
		h.told(policy, false)
	}
}

func (policyHandler) OnDelete(any) {}

// told tells the pods that a policy selects.
func (p *policies) told(policy *networkingv1.NetworkPolicy, initial bool) {
	for _, pod := range p.pods(policy.Namespace) {
		if initial && pod.CreationTimestamp.Time.Before(p.since) {
			continue
		}
		if selects(policy, pod) {
			p.warn(pod, policyMessage(policy))
		}
	}
}

// arrived tells a new pod of the policies that select it and are known; what is not
// known yet tells by itself.
func (p *policies) arrived(pod *corev1.Pod) {
	known, err := p.lister.NetworkPolicies(pod.Namespace).List(labels.Everything())
	if err != nil {
		return // a cache of this process's own has no errors
	}
	for _, policy := range known {
		if selects(policy, pod) {
			p.warn(pod, policyMessage(policy))
		}
	}
}

func selects(policy *networkingv1.NetworkPolicy, pod *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
	return err == nil && selector.Matches(labels.Set(pod.Labels))
}

func policyMessage(policy *networkingv1.NetworkPolicy) string {
	return fmt.Sprintf("NetworkPolicy %q selects this pod, but is not enforced: SanFran does not limit who may call a function pod, or whom it calls", policy.Name)
}

// trimPolicy keeps of a policy what is looked at.
func trimPolicy(obj any) (any, error) {
	if policy, ok := obj.(*networkingv1.NetworkPolicy); ok {
		return &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: policy.Name, Namespace: policy.Namespace, UID: policy.UID, ResourceVersion: policy.ResourceVersion},
			Spec:       networkingv1.NetworkPolicySpec{PodSelector: policy.Spec.PodSelector},
		}, nil
	}
	return obj, nil
}
