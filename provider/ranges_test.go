package provider

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestRangesThatTheClusterUsesAreRefused(t *testing.T) {
	client := fake.NewClientset(
		&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.96.0.0/16", "fd10:96::/112"}}},
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"},
			Spec: corev1.NodeSpec{PodCIDR: "10.244.1.0/24", PodCIDRs: []string{"10.244.1.0/24", "fd10:244:1::/64"}},
			Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "one"}, {Type: corev1.NodeInternalIP, Address: "192.0.2.7"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::7"},
			}}},
	)
	for ranges, want := range map[string]string{
		"10.245.0.0/16":               "",
		"10.245.0.0/16 fd10:245::/64": "",
		"10.96.128.0/17":              "Services",
		"10.0.0.0/8":                  "is ",
		"10.244.1.128/25":             `pods of node "one"`,
		"192.0.2.0/24":                `address of node "one"`,
		"10.245.0.0/16 fd10:96::/64":  "Services",
		"10.245.0.0/16 2001:db8::/64": `address of node "one"`,
		"10.245.0.0/16 fd10:244::/32": `pods of node "one"`,
	} {
		var cidrs []netip.Prefix
		for text := range strings.FieldsSeq(ranges) {
			cidrs = append(cidrs, netip.MustParsePrefix(text))
		}
		err := checkRanges(t.Context(), client, cidrs, slog.New(slog.DiscardHandler))
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", ranges, err)
		case want != "" && (!errors.Is(err, ErrRangeInUse) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want one about %s", ranges, err, want)
		}
	}
}
