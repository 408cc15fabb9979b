package provider

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// podDNS is what the container's resolv.conf says, nil for the node's own. It
// follows the pod's dnsPolicy and dnsConfig. The server and domain are
// the cluster's; without a server ClusterFirst falls back to the node's.
func podDNS(pod *corev1.Pod, server netip.Addr, domain string) *agentv1.Dns {
	dns := &agentv1.Dns{}
	switch pod.Spec.DNSPolicy {
	case corev1.DNSDefault:
		if pod.Spec.DNSConfig == nil {
			return nil
		}
	case corev1.DNSNone:
	default:
		if !server.IsValid() {
			return nil
		}
		dns.Nameservers = []string{server.String()}
		dns.Searches = []string{pod.Namespace + ".svc." + domain, "svc." + domain, domain}
		dns.Options = []string{"ndots:5"}
	}
	if own := pod.Spec.DNSConfig; own != nil {
		dns.Nameservers = appendNew(dns.Nameservers, own.Nameservers)
		dns.Searches = appendNew(dns.Searches, own.Searches)
		for _, option := range own.Options {
			text := option.Name
			if option.Value != nil {
				text += ":" + *option.Value
			}
			dns.Options = append(slices.DeleteFunc(dns.Options, func(o string) bool {
				return option.Name == "ndots" && o == "ndots:5"
			}), text)
		}
	}
	return dns
}

func appendNew(all, more []string) []string {
	for _, s := range more {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}
