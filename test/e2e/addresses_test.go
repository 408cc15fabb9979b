//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
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

// TestServicesOfEachFamily calls functions behind Services of all kinds, from a pod on
// each node and from every node, over each family that the cluster has. They see the
// client's own address: an active one on its own node and where an agent forwards, and a
// parked one in the request that wakes it.
func TestServicesOfEachFamily(t *testing.T) {
	namespace := newNamespace(t)
	names, nodes := nodesOf(t)
	for _, node := range names {
		kubectl(t, "run", "client-"+node, "-n", namespace, "--image=sanfran.local/toolbox:1", "--restart=Never",
			"--overrides="+fmt.Sprintf(`{"spec":{"nodeName":%q}}`, node), "--command", "--", "sleep", "3600")
		waitReady(t, namespace, "client-"+node)
	}
	// The number tells a container that has been woken from one that was there.
	configMap(t, namespace, "who", "let n = 0; module.exports = (req, res) => res.send(++n + ' ' + req.socket.remoteAddress.replace('::ffff:', ''))")
	functions := map[string]pod{}
	for name, idle := range map[string]string{"active": "10m", "parked": "2s"} {
		runFunction(t, namespace, name, "who", "--annotations=sanfran.dev/idle-timeout="+idle)
		waitReady(t, namespace, name)
		var p pod
		get(t, &p, "pod", name, "-n", namespace)
		functions[name] = p
	}
	// It is active from here on.
	fetch(t, gateway(namespace, "active", "/"))
	for _, family := range []string{"IPv4", "IPv6"} {
		if of(family, nodes[names[0]]) == "" {
			t.Logf("the cluster has no %s", family)
			continue
		}
		t.Run(family, func(t *testing.T) {
			var callers []caller
			for _, node := range names {
				callers = append(callers, caller{"a pod on " + node, node, of(family, podIPs(t, namespace, "client-"+node)), func(url string) (string, error) {
					return run(t, "", "kubectl", "exec", "-n", namespace, "client-"+node, "--", "timeout", "10", "wget", "-q", "-O", "-", url)
				}})
				if ownCluster {
					callers = append(callers, caller{node, node, of(family, nodes[node]), func(url string) (string, error) {
						return inNode(t, node, "curl", "-sS", "--max-time", "10", url)
					}})
				}
			}
			if ownCluster {
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
				callers = append(callers, caller{"this machine", "", outside(t, of(family, nodes[names[0]])), func(url string) (string, error) {
					res, err := client.Get(url)
					if err != nil {
						return "", err
					}
					defer res.Body.Close()
					body, err := io.ReadAll(res.Body)
					return string(body), err
				}})
			} else {
				t.Log("from nodes and from outside: not run, as this machine has no way into their network")
			}
			for _, name := range []string{"active", "parked"} {
				services := makeServices(t, namespace, name, family)
				for _, c := range callers {
					for way, url := range services.ways(c, of(family, podIPs(t, namespace, name)), of(family, nodes[names[0]])) {
						seen := []string{c.address}
						if c.name == c.node && family == "IPv6" && way != "its address" {
							// kube-proxy's masquerading chooses among all that the node has.
							seen = addressesOf(t, c)
						}
						called := time.Now()
						until(t, fmt.Sprintf("%s to be seen as %s by %s of the %s function", c.name, seen, way, name), func() (string, bool) {
							called = time.Now()
							got, err := c.get(url)
							n, address, _ := strings.Cut(got, " ")
							return fmt.Sprint(got, " ", err), err == nil && slices.Contains(seen, address) && (name == "parked" || n != "1")
						})
						// It takes seconds until a function is parked again, so not all ways are tried.
						if name == "active" || way != "ClusterIP" && way != "NodePort" {
							continue
						}
						untilLoggedSince(t, called, "pod parked", functions[name].Metadata.UID)
						got, err := c.get(url)
						if n, address, _ := strings.Cut(got, " "); err != nil || n != "1" || !slices.Contains(seen, address) {
							t.Errorf("%s wakes the function by %s: %q %v, want 1 and %s", c.name, way, got, err, seen)
						}
					}
				}
			}
		})
	}
}

// caller is where a request comes from: a pod, a node, or, without a node, outside.
type caller struct {
	name, node, address string
	get                 func(url string) (string, error)
}

// addressesOf are all of a node's.
func addressesOf(t *testing.T, node caller) (addresses []string) {
	t.Helper()
	out, err := inNode(t, node.node, "ip", "-json", "address")
	if err != nil {
		t.Fatal(err)
	}
	var links []struct {
		Info []struct{ Local string } `json:"addr_info"`
	}
	if err := json.Unmarshal([]byte(out), &links); err != nil {
		t.Fatalf("ip address on %s: %v", node.name, err)
	}
	for _, link := range links {
		for _, info := range link.Info {
			addresses = append(addresses, info.Local)
		}
	}
	return addresses
}

// outside is the address of this machine's that a node sees.
func outside(t *testing.T, node string) string {
	t.Helper()
	conn, err := net.Dial("udp", net.JoinHostPort(node, "1")) // sends nothing
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).IP.String()
}

// services lead to one function over one family.
type services struct{ name, namespace, clusterIP, nodePort string }

// makeServices makes one with a ClusterIP and a NodePort, and one without either.
func makeServices(t *testing.T, namespace, function, family string) services {
	t.Helper()
	s := services{name: function + "-" + strings.ToLower(family), namespace: namespace}
	for name, spec := range map[string]string{s.name: "type: NodePort", s.name + "-headless": "clusterIP: None"} {
		apply(t, namespace, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {selector: {run: %s}, ports: [{port: 8080, targetPort: 8080}], ipFamilyPolicy: SingleStack, ipFamilies: [%s], %s}
`, name, function, family, spec))
	}
	s.clusterIP = kubectl(t, "get", "service", s.name, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
	s.nodePort = kubectl(t, "get", "service", s.name, "-n", namespace, "-o", "jsonpath={.spec.ports[0].nodePort}")
	return s
}

// ways are the URLs by which a caller reaches the function at podIP. The NodePort is the
// first node's, for every node answers for the function: none sends the connection on in
// its own name.
func (s services) ways(c caller, podIP, firstNode string) map[string]string {
	at := func(host, port string) string { return "http://" + net.JoinHostPort(host, port) + "/" }
	switch {
	case c.node == "":
		return map[string]string{"NodePort": at(firstNode, s.nodePort)}
	case c.name == c.node:
		return map[string]string{"its address": at(podIP, "8080"), "ClusterIP": at(s.clusterIP, "8080"), "NodePort": at(firstNode, s.nodePort)}
	}
	return map[string]string{
		"its address": at(podIP, "8080"), "ClusterIP": at(s.clusterIP, "8080"),
		"DNS": at(s.name+"."+s.namespace, "8080"), "headless DNS": at(s.name+"-headless."+s.namespace, "8080"),
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
