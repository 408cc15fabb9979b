package provider

import (
	"context"
	"fmt"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	generationLease = "sanfran-control-plane-generation"
	// annotationGeneration holds the number, in decimal.
	annotationGeneration = "sanfran.dev/generation"
	generationAttempts   = 10
)

// NextGeneration counts this start of the control plane. The number is greater
// than any that was returned before, by this process or another, as long as
// the Lease is not deleted: an assignment of an older one never wins. The Lease
// has no owner and outlives the installation, whose agents may.
func (c *Cluster) NextGeneration(ctx context.Context) (uint64, error) {
	return nextGeneration(ctx, c.account, c.config.Namespace, time.Now)
}

func nextGeneration(ctx context.Context, client kubernetes.Interface, namespace string, now func() time.Time) (uint64, error) {
	leases := client.CoordinationV1().Leases(namespace)
	var err error
	for range generationAttempts {
		var held *coordinationv1.Lease
		held, err = leases.Get(ctx, generationLease, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			// Seconds since 1970 are above whatever a lost Lease has counted.
			first := uint64(now().Unix())
			_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
				Name:        generationLease,
				Annotations: map[string]string{annotationGeneration: strconv.FormatUint(first, 10)},
			}}, metav1.CreateOptions{})
			if err == nil {
				return first, nil
			}
			if apierrors.IsAlreadyExists(err) {
				continue
			}
		}
		if err != nil {
			break
		}
		text := held.Annotations[annotationGeneration]
		last, parseErr := strconv.ParseUint(text, 10, 64)
		if parseErr != nil {
			return 0, fmt.Errorf("the Lease %s/%s says generation %q, which is no number: delete it", namespace, generationLease, text)
		}
		held = held.DeepCopy()
		held.Annotations[annotationGeneration] = strconv.FormatUint(last+1, 10)
		if _, err = leases.Update(ctx, held, metav1.UpdateOptions{}); err == nil {
			return last + 1, nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return 0, fmt.Errorf("count the control plane's generation in the Lease %s/%s: %w", namespace, generationLease, err)
}
