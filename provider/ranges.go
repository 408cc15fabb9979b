package provider

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// ErrRangeInUse is in the chain of an error about a range of function pods' addresses
// that the cluster uses for something else.
var ErrRangeInUse = errors.New("addresses are in use in the cluster")

// checkRanges refuses ranges that share addresses with what Kubernetes knows: the
// ranges of Services and of nodes' pods, and the addresses of nodes. Agents look at
// their nodes' routes as well, where networks that Kubernetes does not know of are.
func checkRanges(ctx context.Context, client kubernetes.Interface, cidrs []netip.Prefix, log *slog.Logger) error {
	refuse := func(text, what string) error {
		used, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil {
			used, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil // a name, or what will be a range some day
		}
		for _, cidr := range cidrs {
			if used.Overlaps(cidr) {
				return fmt.Errorf("function pods' range %v: %s is %v: %w; choose another range that no node, pod or Service uses", cidr, what, used, ErrRangeInUse)
			}
		}
		return nil
	}
	services, err := client.NetworkingV1().ServiceCIDRs().List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err):
		log.WarnContext(ctx, "this Kubernetes has no ServiceCIDRs; that Services have other addresses than function pods is not checked", "ranges", cidrs)
	case err != nil:
		return fmt.Errorf("list the ranges of Services' addresses: %w", err)
	default:
		for _, service := range services.Items {
			for _, text := range service.Spec.CIDRs {
				if err := refuse(text, fmt.Sprintf("the range of Services (ServiceCIDR %q)", service.Name)); err != nil {
					return err
				}
			}
		}
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list nodes, for their addresses: %w", err)
	}
	for _, node := range nodes.Items {
		for _, text := range append(node.Spec.PodCIDRs, node.Spec.PodCIDR) {
			if err := refuse(text, fmt.Sprintf("the range of pods of node %q", node.Name)); err != nil {
				return err
			}
		}
		for _, address := range node.Status.Addresses {
			if err := refuse(address.Address, fmt.Sprintf("an address of node %q", node.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}
