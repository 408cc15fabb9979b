//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// nodesOf returns the names and addresses of the kubelets' nodes.
func nodesOf(t *testing.T) (names []string, addresses map[string][]string) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct {
				Addresses []struct{ Type, Address string }
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "nodes", "-l", "!sanfran.dev/virtual-node", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	addresses = map[string][]string{}
	for _, node := range list.Items {
		names = append(names, node.Metadata.Name)
		for _, address := range node.Status.Addresses {
			if address.Type == "InternalIP" {
				addresses[node.Metadata.Name] = append(addresses[node.Metadata.Name], address.Address)
			}
		}
	}
	slices.Sort(names)
	return names, addresses
}

// podIPs are the addresses of a pod.
func podIPs(t *testing.T, namespace, name string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.podIPs[*].ip}"))
}

// of returns the address of a family, or "".
func of(family string, addresses []string) string {
	for _, text := range addresses {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Is4() == (family == "IPv4") {
			return text
		}
	}
	return ""
}

// TestServicesOfEachFamily calls a function behind Services of all kinds, from a pod
// on each node and from every node, over each family that the cluster has. Its container
// sees the client's own address, on its own node and where an agent forwards.
func TestServicesOfEachFamily(t *testing.T) {
	namespace := newNamespace(t)
	names, nodes := nodesOf(t)
	for _, node := range names {
		kubectl(t, "run", "client-"+node, "-n", namespace, "--image=sanfran.local/toolbox:1", "--restart=Never",
			"--overrides="+fmt.Sprintf(`{"spec":{"nodeName":%q}}`, node), "--command", "--", "sleep", "3600")
		waitReady(t, namespace, "client-"+node)
	}
	configMap(t, namespace, "who", "module.exports = (req, res) => res.send(req.socket.remoteAddress.replace('::ffff:', ''))")
	runFunction(t, namespace, "who", "who")
	waitReady(t, namespace, "who")
	own := podIPs(t, namespace, "who")
	for _, family := range []string{"IPv4", "IPv6"} {
		if of(family, nodes[names[0]]) == "" {
			t.Logf("the cluster has no %s", family)
			continue
		}
		t.Run(family, func(t *testing.T) {
			address := of(family, own)
			if address == "" {
				t.Fatalf("the function pod has %v, none of %s", own, family)
			}
			service := "who-" + strings.ToLower(family)
			for name, spec := range map[string]string{
				service: "type: NodePort", service + "-headless": "clusterIP: None",
			} {
				apply(t, namespace, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {selector: {run: who}, ports: [{port: 8080, targetPort: 8080}], ipFamilyPolicy: SingleStack, ipFamilies: [%s], %s}
`, name, family, spec))
			}
			ip := kubectl(t, "get", "service", service, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
			nodePort := kubectl(t, "get", "service", service, "-n", namespace, "-o", "jsonpath={.spec.ports[0].nodePort}")
			at := func(host, port string) string { return "http://" + net.JoinHostPort(host, port) + "/" }
			ways := map[string]string{
				"its address": at(address, "8080"), "ClusterIP": at(ip, "8080"),
				"DNS": at(service+"."+namespace, "8080"), "headless DNS": at(service+"-headless."+namespace, "8080"),
			}
			for way, url := range ways {
				until(t, "each client's own address by "+way, func() (string, bool) {
					got, kept := "", true
					for _, node := range names {
						out, err := run(t, "", "kubectl", "exec", "-n", namespace, "client-"+node, "--", "timeout", "10", "wget", "-q", "-O", "-", url)
						got += fmt.Sprintf("%s: %s %v; ", node, out, err)
						kept = kept && err == nil && out == of(family, podIPs(t, namespace, "client-"+node))
					}
					return got, kept
				})
			}
			if !ownCluster {
				t.Log("from nodes: not run, as this machine has no way into their network")
				return
			}
			for _, node := range names {
				for way, url := range map[string]string{
					"its address": ways["its address"], "ClusterIP": ways["ClusterIP"],
					"NodePort": at(of(family, nodes[node]), nodePort), "NodePort of the first node": at(of(family, nodes[names[0]]), nodePort),
				} {
					until(t, "an answer to "+node+" by "+way, func() (string, bool) {
						out, err := run(t, "", "go", "-C", "../../deploy/local", "run", ".", "exec", "--name", envOr("CLUSTER", "sanfran-test"), node, "--", "curl", "-sS", "--max-time", "10", url)
						_, isAddress := netip.ParseAddr(out)
						return fmt.Sprint(out, err), err == nil && isAddress == nil
					})
				}
			}
		})
	}
}

// until calls try until it succeeds, at most for as long as anything may take.
func until(t *testing.T, what string, try func() (got string, ok bool)) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(200 * time.Millisecond) {
		got, ok := try()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s; the last: %s", what, got)
		}
	}
}

// Whoever writes a NetworkPolicy for a function pod is told that it does not hold.
func TestNetworkPolicyIsToldToThePod(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "hello", "hello")
	waitReady(t, namespace, "hello")
	apply(t, namespace, `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all}
spec: {podSelector: {}, policyTypes: [Ingress]}
`)
	until(t, "the event", func() (string, bool) {
		events := kubectl(t, "get", "events", "-n", namespace, "--field-selector=reason=NetworkPolicyNotEnforced,involvedObject.name=hello", "-o", "jsonpath={.items[*].message}")
		return events, strings.Contains(events, `NetworkPolicy "deny-all" selects this pod`)
	})
	forbidden(t, asControlPlane, "get", "networkpolicy", "deny-all", "-n", namespace)
	forbidden(t, asControlPlane, "delete", "networkpolicy", "deny-all", "-n", namespace)
	forbidden(t, asAgent, "get", "networkpolicies", "-A")
}
