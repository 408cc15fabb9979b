//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// A Deployment rolls while clients call its Service, each with a connection of its
// own: no call fails. Services lead to the former pods for a while after they are
// deleted, as every node's kube-proxy hears of it in its own time.
func TestARollingDeploymentFailsNobody(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	kubectl(t, "create", "configmap", "code", "-n", namespace, "--from-literal=index.js="+helloCode,
		"--from-literal=server.js=require('node:http').createServer((req, res) => res.end('Hello')).listen(8080)")
	for _, function := range []struct{ name, command string }{{"handler", "[]"}, {"program", "[node, server.js]"}} {
		apply(t, namespace, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      nodeSelector: {kubernetes.io/hostname: sanfran}
      containers: [{name: main, image: sanfran/node:24, command: %[2]s, ports: [{containerPort: 8080}], volumeMounts: [{name: code, mountPath: /function}]}]
      volumes: [{name: code, configMap: {name: code}}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
`, function.name, function.command))
	}
	type result struct {
		name, failures string
		err            error
	}
	results := make(chan result, 2)
	for _, name := range []string{"handler", "program"} {
		kubectl(t, "rollout", "status", "deployment", name, "-n", namespace, "--timeout=60s")
		url := "http://" + kubectl(t, "get", "service", name, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}") + "/"
		// The Service is known where the client is: it has answered there.
		script := fmt.Sprintf(`until timeout 1 wget -q -O /dev/null %[1]s; do :; done; touch /dev/shm/begun-%[2]s
			until [ -e /dev/shm/stop ]; do timeout 5 wget -q -O /dev/null %[1]s 2>&1 || date; done`, url, name)
		go func() {
			failures, err := run(t, "", "kubectl", "exec", "-n", namespace, "client", "--", "timeout", "60", "sh", "-c", script)
			results <- result{name, failures, err}
		}()
	}
	kubectl(t, "exec", "-n", namespace, "client", "--", "timeout", "60", "sh", "-c", "until [ -e /dev/shm/begun-handler ] && [ -e /dev/shm/begun-program ]; do sleep 0.1; done")
	for _, name := range []string{"handler", "program"} {
		kubectl(t, "label", "pods", "-n", namespace, "-l", "app="+name, "former=yes")
		kubectl(t, "rollout", "restart", "deployment", name, "-n", namespace)
	}
	for _, name := range []string{"handler", "program"} {
		kubectl(t, "rollout", "status", "deployment", name, "-n", namespace, "--timeout=60s")
	}
	kubectl(t, "wait", "pods", "-n", namespace, "-l", "former=yes", "--for=delete", fmt.Sprintf("--timeout=%v", 20*time.Second))
	kubectl(t, "exec", "-n", namespace, "client", "--", "touch", "/dev/shm/stop")
	for range 2 {
		if r := <-results; r.err != nil || r.failures != "" {
			t.Errorf("calls of %s failed: %v\n%.1000s", r.name, r.err, strings.TrimSpace(r.failures))
		}
	}
}
