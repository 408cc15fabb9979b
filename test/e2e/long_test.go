//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// long skips a test that takes minutes unless make test-long runs it.
func long(t *testing.T, part string) {
	t.Helper()
	if os.Getenv("E2E_LONG") != "true" {
		t.Skip("it takes minutes; make test-long PART=" + part + " runs it")
	}
}

// A thousand pods of one revision become Ready and answer, and go again.
func TestLongScale(t *testing.T) {
	long(t, "scale")
	const pods = 1000
	namespace := newNamespace(t)
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "first", "hello")
	waitReady(t, namespace, "first")
	apply(t, namespace, fmt.Sprintf(`
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: many}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      nodeSelector: {kubernetes.io/hostname: sanfran}
      automountServiceAccountToken: false
      containers:
        - {name: many, image: "sanfran/node:24", volumeMounts: [{name: code, mountPath: /function}]}
      volumes: [{name: code, configMap: {name: hello}}]
`, pods))
	start := time.Now()
	kubectlFor(t, 10*time.Minute, "wait", "-n", namespace, "replicaset/many", fmt.Sprintf("--for=jsonpath={.status.readyReplicas}=%d", pods), "--timeout=9m")
	t.Logf("%d pods Ready after %v", pods, time.Since(start).Round(100*time.Millisecond))
	if status, body := fetch(t, gateway(namespace, "many", "?name=many")); status != 200 || body != "Hello many" {
		t.Errorf("%d %q, want 200 \"Hello many\"", status, body)
	}
	start = time.Now()
	kubectlFor(t, 10*time.Minute, "delete", "replicaset", "many", "-n", namespace, "--cascade=foreground", "--timeout=9m")
	t.Logf("gone after %v", time.Since(start).Round(100*time.Millisecond))
}

// Hundreds of containers come and go; what the agent and its node hold is the
// same afterwards.
func TestLongSoak(t *testing.T) {
	long(t, "soak")
	const cycles = 200
	namespace := newNamespace(t)
	configMap(t, namespace, "hello", helloCode)
	for i := range 4 {
		name := fmt.Sprintf("soak-%d", i)
		runFunction(t, namespace, name, "hello", "--annotations=sanfran.dev/idle-timeout=1s")
		waitReady(t, namespace, name)
	}
	cycle := func(n int) {
		for i := range n {
			name := fmt.Sprintf("soak-%d", i%4)
			var p pod
			get(t, &p, "pod", name, "-n", namespace)
			if status, body := fetch(t, gateway(namespace, name, "")); status != 200 {
				t.Fatalf("cycle %d: %d %q", i, status, body)
			}
			if i%4 == 3 { // the last of the four was called last
				untilLogged(t, "pod parked", p.Metadata.UID)
			}
		}
	}
	cycle(8)
	before := held(t)
	cycle(cycles)
	after := held(t)
	for what, n := range after {
		t.Logf("%s: %d before, %d after %d activations", what, before[what], n, cycles)
		// The pool refills in its own time: a few containers' worth may be on
		// their way in either count.
		if slack := 40; n > before[what]+slack {
			t.Errorf("%s grew from %d to %d over %d activations", what, before[what], n, cycles)
		}
	}
}

// held counts what the agent holds in its node.
func held(t *testing.T) map[string]int {
	t.Helper()
	count := func(shell string) int {
		out, err := onNode(t, "sh", "-c", shell)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil {
			t.Fatalf("%s: %v", shell, err)
		}
		return n
	}
	var nodes struct {
		Items []struct {
			Status struct {
				Addresses []struct{ Type, Address string }
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "nodes", "-l", "!sanfran.dev/virtual-node", "-o", "json")), &nodes); err != nil {
		t.Fatal(err)
	}
	metrics := "curl -sS http://" + nodes.Items[0].Status.Addresses[0].Address + ":7072/metrics"
	metric := func(name string) int {
		return count(metrics + " | awk '$1 == \"" + name + "\" { printf \"%d\", $2 }'")
	}
	return map[string]int{
		"network links of the node": count("ls /sys/class/net | wc -l"),
		"goroutines of the agent":   metric("go_goroutines"),
		// The port of every ended lease is withheld for ten minutes.
		"open descriptors of the agent, resting ports aside": metric("process_open_fds") - metric("sanfran_agent_ports_resting"),
		"resident MiB of the agent":                          metric("process_resident_memory_bytes") >> 20,
	}
}
