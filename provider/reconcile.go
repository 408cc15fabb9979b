package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// reconcile brings one pod and its lease together. It returns when to look
// again though nothing changed (0: never); an error has the pod tried again
// with a growing delay.
func (c *podController) reconcile(ctx context.Context, uid types.UID) (again time.Duration, err error) {
	pod := c.newest(uid)
	if pod == nil || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		c.claims.drop(uid)
	}
	switch {
	case pod == nil:
		return 0, c.gone(ctx, uid)
	case pod.DeletionTimestamp != nil:
		return 0, c.deleting(ctx, pod)
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		return 0, c.leases.Withdraw(ctx, string(uid), 0)
	}
	return c.living(ctx, pod)
}

// newest is the informer's pod, or the one that the last write returned while
// the informer has not seen that yet. Nil: Kubernetes has it no more.
func (c *podController) newest(uid types.UID) *corev1.Pod {
	pod := c.pod(uid)
	if pod == nil {
		return nil
	}
	r := c.record(uid)
	if r.written != nil {
		order, err := resourceversion.CompareResourceVersion(r.written.ResourceVersion, pod.ResourceVersion)
		if err == nil && order > 0 {
			return r.written
		}
		r.written = nil
	}
	return pod
}

// gone ends the lease of a pod that Kubernetes has no more, for example because
// it was deleted by force.
func (c *podController) gone(ctx context.Context, uid types.UID) error {
	if err := c.leases.Withdraw(ctx, string(uid), 0); err != nil {
		return fmt.Errorf("withdraw pod %s that is gone: %w", uid, err)
	}
	// The end is told through Subscribe, and the pod looked at again.
	if c.leases.Status(string(uid)) == nil {
		c.forget(uid)
	}
	return nil
}

// deleting withdraws the pod and deletes its object once nothing is held of it,
// without waiting for the grace period to pass.
func (c *podController) deleting(ctx context.Context, pod *corev1.Pod) error {
	uid, r := string(pod.UID), c.record(pod.UID)
	if !r.withdrawn.Equal(pod.DeletionTimestamp.Time) {
		if err := c.leases.Withdraw(ctx, uid, graceLeft(pod, c.now())); err != nil {
			return fmt.Errorf("withdraw pod %s: %w", podKey(pod), err)
		}
		r.withdrawn = pod.DeletionTimestamp.Time
	}
	if c.leases.Status(uid) != nil {
		return nil // told through Subscribe
	}
	if len(pod.Finalizers) > 0 {
		// A finalizer holds the object; its controller waits to see the end.
		if err := c.write(ctx, pod, endedStatus(pod, c.now())); err != nil {
			return err
		}
		if r.ended {
			return nil
		}
	}
	err := c.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: new(int64),
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s, whose lease has ended: %w", podKey(pod), err)
	}
	r.ended = true
	return nil
}

// graceLeft is what is left of the grace period of a pod that is deleted. Its end is
// told in whole seconds, rounded down: of a short one that would be all there is.
func graceLeft(pod *corev1.Pod, now time.Time) time.Duration {
	left := pod.DeletionTimestamp.Sub(now)
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		left = min(left+time.Second, time.Duration(*grace)*time.Second)
	}
	return max(left, 0)
}

// living assigns the pod when that is to be done, and writes its status.
func (c *podController) living(ctx context.Context, pod *corev1.Pod) (again time.Duration, err error) {
	uid, r := string(pod.UID), c.record(pod.UID)
	s := situation{now: c.now(), hostIP: c.hostIP}
	f, err := ReadFunction(pod)
	if err != nil {
		c.warn(pod, r, reasonUnsupported, err.Error())
		// An annotation of a running pod was made wrong: what runs, runs on, and
		// how it does is still told.
		if r.inputs == "" {
			if f = readWithoutAnnotations(pod); f == nil {
				s.waiting, s.message = reasonUnsupported, err.Error()
				return 0, c.write(ctx, pod, podStatus(pod, s))
			}
		}
	}
	ips, err := c.addresses.take(uid)
	if err != nil {
		s.waiting, s.message = reasonNoAddress, err.Error()
		c.warn(pod, r, reasonNoAddress, err.Error())
		return 0, errors.Join(err, c.write(ctx, pod, podStatus(pod, s)))
	}
	switch inputs := inputsOf(pod, ips); {
	case f == nil:
	case inputs != r.inputs:
		if err := c.assign(ctx, pod, r, f, ips); err != nil {
			if r.inputs != "" {
				return 0, err // what runs, runs on
			}
			s.waiting, s.message = c.explain(pod, r, err)
			return 0, errors.Join(err, c.write(ctx, pod, podStatus(pod, s)))
		}
		r.inputs = inputs
	case c.stale(r):
		if err := c.renew(ctx, pod, r, f, ips); err != nil {
			return 0, err
		}
	case !proto.Equal(r.route, c.routeOf(pod, f)):
		if err := c.publish(ctx, pod, r, f, r.assignment); err != nil {
			return 0, err
		}
	}
	c.tellClash(pod, r, f)
	s.podIPs = ips
	s.lease = c.leases.Status(uid)
	if !r.refresh.IsZero() {
		again = max(r.refresh.Sub(c.now()), time.Second)
	}
	switch s.lease.GetState() {
	case agentv1.PodState_POD_STATE_UNSPECIFIED, agentv1.PodState_POD_STATE_PREPARING:
		if left := r.until.Sub(c.now()); left > 0 {
			return left, nil
		}
	}
	r.until = time.Time{}
	next := podStatus(pod, s)
	c.tell(pod, next)
	return again, c.write(ctx, pod, next)
}

// inputsOf are the parts of a pod that its assignment is made of and that can
// change. What changes its route alone is not among them. The ConfigMaps and Secrets a pod refers to are read when it is
// assigned and not again: a pod keeps its revision, as it keeps its image.
func inputsOf(pod *corev1.Pod, ips podIPs) string {
	return strings.Join([]string{
		ips.String(), fmt.Sprint(pod.Generation),
		pod.Labels[LabelFunction],
		pod.Annotations[AnnotationIdleTimeout], pod.Annotations[AnnotationPark],
	}, "\x00")
}

// publish gives the pool an assignment and what the pod's route says now.
func (c *podController) publish(ctx context.Context, pod *corev1.Pod, r *podRecord, f *Function, assignment *agentv1.Assignment) error {
	route := c.routeOf(pod, f)
	if err := c.leases.Assign(ctx, assignment, route); err != nil {
		return fmt.Errorf("assign pod %s: %w", podKey(pod), err)
	}
	r.assignment, r.route = assignment, route
	return nil
}

func (c *podController) stale(r *podRecord) bool {
	return !r.refresh.IsZero() && !c.now().Before(r.refresh)
}

// assign resolves what the pod refers to, stores its code and asks for a lease.
func (c *podController) assign(ctx context.Context, pod *corev1.Pod, r *podRecord, f *Function, ips podIPs) error {
	capacity, _ := c.leases.Capacity()
	facts, err := c.facts(ctx)
	if err != nil {
		return err
	}
	what, err := resolve(ctx, c.objects, pod, f, place{podIPs: ips, hostIP: c.hostIP, node: capacity, defaults: facts.env})
	if err != nil {
		return err
	}
	timeout := c.idleTimeout
	if f.IdleTimeout != nil {
		timeout = *f.IdleTimeout
	}
	what.assignment.IdleTimeout = durationpb.New(timeout)
	what.assignment.Dns = podDNS(pod, facts.nameserver, facts.domain)
	if err := c.bundles.Put(ctx, what.digest, bytes.NewReader(what.archive)); err != nil {
		return fmt.Errorf("store the code of pod %s: %w", podKey(pod), err)
	}
	if err := c.publish(ctx, pod, r, f, what.assignment); err != nil {
		return err
	}
	r.refresh, r.told = what.refresh, ""
	if pod.Status.PodIP == "" {
		c.eventf(pod, corev1.EventTypeNormal, "Leased", "Function %q gets a lease at %s: runtime %s, port %d, code %.19s", f.Name, ips, f.Runtime, f.Port, what.digest)
		c.policies.arrived(pod)
		for _, sentence := range f.Ignored {
			c.eventf(pod, corev1.EventTypeWarning, "Ignored", "%s", sentence)
		}
	}
	return nil
}

// renew gives the pod the tokens that are due, and leaves everything else as it
// was assigned.
func (c *podController) renew(ctx context.Context, pod *corev1.Pod, r *podRecord, f *Function, ips podIPs) error {
	capacity, _ := c.leases.Capacity()
	assignment := proto.CloneOf(r.assignment)
	refresh, err := renewTokens(ctx, c.objects, pod, f, place{podIPs: ips, hostIP: c.hostIP, node: capacity}, assignment)
	if err != nil {
		return fmt.Errorf("renew the tokens of pod %s: %w", podKey(pod), err)
	}
	if err := c.publish(ctx, pod, r, f, assignment); err != nil {
		return fmt.Errorf("renewed tokens: %w", err)
	}
	r.refresh = refresh
	return nil
}

// explain tells the user why a pod has no lease yet, by event and by the reason
// its container waits for.
func (c *podController) explain(pod *corev1.Pod, r *podRecord, err error) (reason, message string) {
	var volume *volumeError
	var bad *Unsupported
	switch {
	case errors.As(err, &bad):
		c.warn(pod, r, reasonUnsupported, err.Error())
		return reasonUnsupported, err.Error()
	case apierrors.IsForbidden(err):
		// The API server learns a moment later which pod is ours, and what it
		// refers to. Said only when it lasts.
		if c.queue.NumRequeues(pod.UID) > 5 {
			c.warn(pod, r, "Forbidden", err.Error())
		}
		return reasonCreating, err.Error()
	case errors.As(err, &volume):
		c.warn(pod, r, "FailedMount", fmt.Sprintf("MountVolume.SetUp failed for %v", err))
		return reasonCreating, err.Error()
	case errors.Is(err, errMissing):
		c.warn(pod, r, "Failed", "Error: "+err.Error())
		return reasonConfigError, err.Error()
	}
	c.warn(pod, r, "FailedLease", err.Error())
	return reasonCreating, err.Error()
}

// write patches the pod's status, by difference and only when there is one. The
// UID in the patch keeps it from meeting another pod of the same name.
func (c *podController) write(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	patch, err := statusPatch(pod, status)
	if err != nil {
		return fmt.Errorf("compare the status of pod %s: %w", podKey(pod), err)
	}
	if patch == nil {
		return nil
	}
	written, err := c.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write the status of pod %s: %w", podKey(pod), err)
	}
	if err == nil && written.UID == pod.UID {
		written.ManagedFields = nil
		c.record(pod.UID).written = written
	}
	return nil
}

// statusPatch is the strategic merge patch from the pod's status to another, or
// nil when they are the same.
func statusPatch(pod *corev1.Pod, status corev1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(corev1.Pod{Status: pod.Status})
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(corev1.Pod{Status: status})
	if err != nil {
		return nil, err
	}
	if bytes.Equal(before, after) {
		return nil, nil
	}
	after, err = json.Marshal(corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Status: status})
	if err != nil {
		return nil, err
	}
	return strategicpatch.CreateTwoWayMergePatch(before, after, corev1.Pod{})
}
