//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// patience bounds every wait for the cluster. It is long, for a busy machine;
// nothing waits longer than what it waits for.
const patience = 90 * time.Second

var (
	gatewayURL = os.Getenv("GATEWAY_URL")
	// ownCluster: the cluster is the local one, whose nodes are network
	// namespaces of this machine.
	ownCluster = os.Getenv("E2E_LOCAL") == "true"
	release    = envOr("NAMESPACE", "sanfran-system")
)

func envOr(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func TestMain(m *testing.M) {
	if gatewayURL == "" || os.Getenv("KUBECONFIG") == "" {
		fmt.Fprintln(os.Stderr, "e2e: KUBECONFIG and GATEWAY_URL name no cluster; run test/e2e/run.sh, which sets them")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// run executes a command and returns its standard output and its error, which
// carries the standard error.
func run(t *testing.T, stdin string, name string, args ...string) (string, error) {
	t.Helper()
	return runFor(t, patience, stdin, name, args...)
}

// runFor is run with a patience of its own.
func runFor(t *testing.T, within time.Duration, stdin string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// kubectl runs kubectl and returns what it printed.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t, "", "kubectl", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectlFor is kubectl with a patience of its own.
func kubectlFor(t *testing.T, within time.Duration, args ...string) {
	t.Helper()
	if _, err := runFor(t, within, "", "kubectl", args...); err != nil {
		t.Fatal(err)
	}
}

// apply applies a manifest.
func apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	if out, err := run(t, manifest, "kubectl", "apply", "-n", namespace, "-f", "-"); err != nil {
		t.Fatalf("%v%s", err, out)
	}
}

// get reads an object into v.
func get(t *testing.T, v any, args ...string) {
	t.Helper()
	out := kubectl(t, append([]string{"get", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("kubectl get %s: %v", strings.Join(args, " "), err)
	}
}

// newNamespace makes a namespace for the test and removes it afterwards.
func newNamespace(t *testing.T) string {
	t.Helper()
	name := "e2e-" + strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(t.Name(), "Test"), "/", "-"))
	if len(name) > 50 {
		name = strings.TrimRight(name[:50], "-")
	}
	// An earlier run's namespace may still be going.
	name += "-" + strings.ToLower(rand.Text()[:5])
	kubectl(t, "create", "namespace", name)
	kubectl(t, "wait", "-n", name, "--for=create", "serviceaccount/default", "--timeout=60s")
	t.Cleanup(func() {
		if t.Failed() {
			describe(t, name)
		}
		cmd := exec.Command("kubectl", "delete", "namespace", name, "--wait=false")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("delete namespace %s: %v\n%s", name, err, out)
		}
	})
	return name
}

// describe logs what Kubernetes says of a namespace, after a failure. The
// test's own context has ended by then.
func describe(t *testing.T, namespace string) {
	for _, args := range [][]string{{"get", "pods", "-o", "wide"}, {"describe", "pods"}} {
		out, _ := exec.Command("kubectl", append(args, "-n", namespace)...).CombinedOutput()
		t.Logf("kubectl %s -n %s:\n%s", strings.Join(args, " "), namespace, out)
	}
}

// configMap makes a ConfigMap that holds a function's code as index.js.
func configMap(t *testing.T, namespace, name, code string) {
	t.Helper()
	kubectl(t, "create", "configmap", name, "-n", namespace, "--from-literal=index.js="+code)
}

// runFunction is the README's kubectl run: a nodeSelector, a ConfigMap, and
// neither toleration nor nodeName nor runtimeClass.
func runFunction(t *testing.T, namespace, name, configMap string, more ...string) {
	t.Helper()
	kubectl(t, append([]string{"run", name, "-n", namespace, "--image=sanfran/node:24", "--port=8080",
		"--override-type=strategic", "--overrides=" + fmt.Sprintf(`{"spec":{
		  "nodeSelector":{"kubernetes.io/hostname":"sanfran"},
		  "volumes":[{"name":"code","configMap":{"name":%q}}],
		  "containers":[{"name":%q,"volumeMounts":[{"name":"code","mountPath":"/function"}]}]}}`, configMap, name)}, more...)...)
}

func waitReady(t *testing.T, namespace, pod string) {
	t.Helper()
	kubectl(t, "wait", "-n", namespace, "--for=condition=Ready", "pod/"+pod, "--timeout=60s")
}

// fetch sends a GET and returns status and body. It follows no redirect and
// keeps no connection.
func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	return res.StatusCode, string(body)
}

// gateway is the URL of a function at the gateway.
func gateway(namespace, function, rest string) string {
	return fmt.Sprintf("%s/ns/%s/fn/%s%s", gatewayURL, namespace, function, rest)
}

// inCluster sends a GET from an ordinary pod of a kubelet and returns the body.
func inCluster(t *testing.T, namespace, url string) string {
	t.Helper()
	return kubectl(t, "exec", "-n", namespace, "client", "--", "timeout", "10", "wget", "-q", "-O", "-", url)
}

// client starts the ordinary pod that inCluster uses.
func client(t *testing.T, namespace string) {
	t.Helper()
	kubectl(t, "run", "client", "-n", namespace, "--image=sanfran.local/toolbox:1", "--restart=Never", "--command", "--", "sleep", "3600")
	waitReady(t, namespace, "client")
}

// expose makes a Service in front of a pod and returns its ClusterIP once that answers
// the pod of client. Before kube-proxy of that node knows of a Service, nothing
// translates its address. With iptables nothing refuses it either: a connection that is
// begun then, to an ordinary pod's Service too, hangs for ever, because connection
// tracking has it as one that is not translated. So each try is a new one.
func expose(t *testing.T, namespace, pod string, port int) (clusterIP string) {
	t.Helper()
	kubectl(t, "expose", "pod", pod, "-n", namespace, "--port=80", fmt.Sprintf("--target-port=%d", port))
	clusterIP = kubectl(t, "get", "service", pod, "-n", namespace, "-o", "jsonpath={.spec.clusterIP}")
	kubectl(t, "exec", "-n", namespace, "client", "--", "timeout", "60", "sh", "-c",
		fmt.Sprintf("until timeout 1 wget -q -O /dev/null http://%s/; do sleep 0.1; done 2>/dev/null", clusterIP))
	return clusterIP
}

// onNode runs a command in the network of the cluster's first real node.
func onNode(t *testing.T, command ...string) (string, error) {
	t.Helper()
	if !ownCluster {
		t.Skip("the cluster is not the local one: this machine has no way into its nodes' network")
	}
	node := kubectl(t, "get", "nodes", "-l", "!sanfran.dev/virtual-node", "-o", "jsonpath={.items[0].metadata.name}")
	return inNode(t, node, command...)
}

// inNode runs a command in the network of one of the local cluster's nodes.
func inNode(t *testing.T, node string, command ...string) (string, error) {
	t.Helper()
	args := append([]string{"-C", "../../deploy/local", "run", ".", "exec", "--name", envOr("CLUSTER", "sanfran-test"), node, "--"}, command...)
	return run(t, "", "go", args...)
}

// pod is what the tests read of a Pod.
type pod struct {
	Metadata struct {
		UID               string
		DeletionTimestamp string
	}
	Spec struct {
		Tolerations []struct {
			Key               string
			TolerationSeconds *int
		}
		NodeName string
	}
	Status struct {
		Phase      string
		PodIP      string
		HostIP     string
		Conditions []struct {
			Type, Status, Reason string
		}
		ContainerStatuses []struct {
			Ready        bool
			RestartCount int
			State        struct {
				Waiting *struct{ Reason, Message string }
				Running *struct{ StartedAt string }
			}
			LastState struct {
				Terminated *struct {
					Reason, Message string
					ExitCode        int
				}
			}
		}
	}
}

func (p pod) condition(kind string) string {
	for _, c := range p.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

// kubectlAfter runs kubectl after a test, when its own context has ended.
func kubectlAfter(t *testing.T, args ...string) {
	if out, err := exec.Command("kubectl", args...).CombinedOutput(); err != nil {
		t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
