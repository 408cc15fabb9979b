//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

// The identities that SanFran's processes have towards Kubernetes.
var (
	asNode         = []string{"--as=system:node:sanfran", "--as-group=system:nodes", "--as-group=system:authenticated"}
	asControlPlane = serviceAccount("sanfran-control-plane")
	asAgent        = serviceAccount("sanfran-agent")
	asGateway      = serviceAccount("sanfran-gateway")
)

func serviceAccount(name string) []string {
	return []string{"--as=system:serviceaccount:" + release + ":" + name,
		"--as-group=system:serviceaccounts", "--as-group=system:serviceaccounts:" + release, "--as-group=system:authenticated"}
}

// forbidden checks that Kubernetes answers 403.
func forbidden(t *testing.T, as []string, args ...string) {
	t.Helper()
	out, err := run(t, "", "kubectl", append(args, as...)...)
	if err == nil {
		t.Errorf("%s may: kubectl %s\n%s", as[0], strings.Join(args, " "), out)
		return
	}
	if !strings.Contains(strings.ToLower(err.Error()), "forbidden") {
		t.Errorf("kubectl %s %s: %v, want Forbidden", strings.Join(args, " "), as[0], err)
	}
}

func allowed(t *testing.T, as []string, args ...string) {
	t.Helper()
	if _, err := run(t, "", "kubectl", append(args, as...)...); err != nil {
		t.Errorf("%s may not: %v", as[0], err)
	}
}

// Towards Kubernetes the provider is the node's identity, which reaches what
// its own pods name and nothing else. That it is this identity and no other
// that is in use follows: the pod becomes Ready, and none of SanFran's
// ServiceAccounts could have made it so.
func TestLeastPrivilege(t *testing.T) {
	namespace := newNamespace(t)
	kubectl(t, "create", "secret", "generic", "referenced", "-n", namespace, "--from-literal=key=value")
	kubectl(t, "create", "secret", "generic", "unreferenced", "-n", namespace, "--from-literal=key=value")
	kubectl(t, "create", "serviceaccount", "somebody", "-n", namespace)
	configMap(t, namespace, "hello", "module.exports = (req, res) => res.send(process.env.KEY)")
	apply(t, namespace, `
apiVersion: v1
kind: Pod
metadata: {name: hello}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  containers:
    - name: hello
      image: sanfran/node:24
      env: [{name: KEY, valueFrom: {secretKeyRef: {name: referenced, key: key}}}]
      volumeMounts: [{name: code, mountPath: /function}]
  volumes: [{name: code, configMap: {name: hello}}]
`)
	waitReady(t, namespace, "hello")
	if _, body := fetch(t, gateway(namespace, "hello", "")); body != "value" {
		t.Errorf("the function's environment has KEY=%q, want the Secret's value", body)
	}
	client(t, namespace) // a pod of somebody else's node
	var own, foreign pod
	get(t, &own, "pod", "hello", "-n", namespace)
	get(t, &foreign, "pod", "client", "-n", namespace)
	token := func(account, name, uid string) []string {
		return []string{"create", "token", account, "-n", namespace, "--bound-object-kind=Pod", "--bound-object-name=" + name, "--bound-object-uid=" + uid}
	}

	allowed(t, asNode, "get", "secret", "referenced", "-n", namespace)
	allowed(t, asNode, token("default", "hello", own.Metadata.UID)...)
	for _, args := range [][]string{
		{"get", "secret", "unreferenced", "-n", namespace},
		{"get", "secrets", "-n", namespace},
		{"get", "secrets", "-A"},
		{"create", "token", "somebody", "-n", namespace},
		token("somebody", "hello", own.Metadata.UID),
		token("default", "client", foreign.Metadata.UID),
		{"delete", "pod", "client", "-n", namespace},
		{"get", "secret", "-n", release, "sanfran-ca"},
	} {
		forbidden(t, asNode, args...)
	}
	for _, as := range [][]string{asControlPlane, asAgent, asGateway} {
		for _, args := range [][]string{
			{"get", "secret", "referenced", "-n", namespace},
			{"get", "secrets", "-A"},
			{"create", "token", "somebody", "-n", namespace},
			{"get", "pods", "-A"},
			{"delete", "pod", "client", "-n", namespace},
			{"create", "configmap", "x", "-n", namespace},
		} {
			forbidden(t, as, args...)
		}
	}
	allowed(t, asControlPlane, "get", "namespaces") // which of them are kept off the gateway
	for _, as := range [][]string{asNode, asAgent, asGateway} {
		forbidden(t, as, "get", "namespaces")
	}
	for _, as := range [][]string{asAgent, asGateway} {
		forbidden(t, as, "get", "secret", "sanfran-ca", "-n", release)
	}
}
