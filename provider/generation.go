package provider

import (
	"context"
	"fmt"
	"strconv"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// annotationGeneration holds the number, in decimal.
	annotationGeneration = "sanfran.dev/generation"
	generationAttempts   = 10
)

// NextGeneration counts this start of the control plane. The number is greater
// than any that was returned before, by this process or another: an assignment
// of an older one never wins. It begins at the seconds since 1970, so that this
// holds even after the Lease was deleted, unless the clock was set back.
func (c *Cluster) NextGeneration(ctx context.Context) (uint64, error) {
	namespace, name := c.config.Namespace, c.config.GenerationLease
	leases := c.account.CoordinationV1().Leases(namespace)
	var err error
	for range generationAttempts {
		var held *coordinationv1.Lease
		held, err = leases.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			owners, ownerErr := ownedByStatefulSet(ctx, c.account, namespace, c.config.Owner)
			if ownerErr != nil {
				return 0, fmt.Errorf("make the Lease %s/%s: %w", namespace, name, ownerErr)
			}
			first := uint64(time.Now().Unix())
			_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{
				Name:            name,
				Annotations:     map[string]string{annotationGeneration: strconv.FormatUint(first, 10)},
				OwnerReferences: owners,
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
			return 0, fmt.Errorf("the Lease %s/%s says generation %q, which is no number: delete it", namespace, name, text)
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
	return 0, fmt.Errorf("count the control plane's generation in the Lease %s/%s: %w", namespace, name, err)
}
