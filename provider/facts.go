package provider

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// clusterFacts are what every pod gets of the cluster. They are not changed
// once they are found.
type clusterFacts struct {
	// nameserver is invalid where the cluster has none.
	nameserver netip.Addr
	domain     string
	// env tells where the API server is.
	env map[string]string
}

// factsOf finds the facts when they are first asked for, and keeps them.
func factsOf(client kubernetes.Interface, domain string) func(context.Context) (*clusterFacts, error) {
	var mu sync.Mutex
	var found *clusterFacts
	return func(ctx context.Context) (*clusterFacts, error) {
		mu.Lock()
		defer mu.Unlock()
		if found != nil {
			return found, nil
		}
		nameserver, err := clusterDNS(ctx, client)
		if err != nil {
			return nil, err
		}
		env, err := serviceEnv(ctx, client)
		if err != nil {
			return nil, err
		}
		found = &clusterFacts{nameserver: nameserver, domain: domain, env: env}
		return found, nil
	}
}

// clusterDNS finds the cluster's name server, the Service kube-dns that every
// common installation has. None is no error.
func clusterDNS(ctx context.Context, client kubernetes.Interface) (netip.Addr, error) {
	service, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, "kube-dns", metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return netip.Addr{}, nil
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("look for the cluster's name server: %w", err)
	}
	addr, err := netip.ParseAddr(service.Spec.ClusterIP)
	if err != nil {
		return netip.Addr{}, nil // headless: nothing to ask
	}
	return addr, nil
}

// serviceEnv is where a pod finds the API server. Variables of other Services
// are not set: functions find them by DNS.
func serviceEnv(ctx context.Context, client kubernetes.Interface) (map[string]string, error) {
	service, err := client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("look for the Service of the API server: %w", err)
	}
	env := map[string]string{"KUBERNETES_SERVICE_HOST": service.Spec.ClusterIP}
	for _, port := range service.Spec.Ports {
		env["KUBERNETES_SERVICE_PORT"] = strconv.Itoa(int(port.Port))
		if port.Name == "https" {
			env["KUBERNETES_SERVICE_PORT_HTTPS"] = strconv.Itoa(int(port.Port))
		}
	}
	return env, nil
}
