//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const helloCode = "module.exports = (req, res) => res.send(`Hello ${req.query.name || 'World'}`)"

func TestNodes(t *testing.T) {
	out := kubectl(t, "get", "nodes")
	if !strings.Contains(out, "sanfran") {
		t.Fatalf("no virtual node:\n%s", out)
	}
	kubectl(t, "wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
	kubectl(t, "wait", "--for=condition=WarmContainers", "node/sanfran", "--timeout=60s")
	labels := kubectl(t, "get", "node", "sanfran", "-o", "jsonpath={.metadata.labels}")
	for _, want := range []string{`"kubernetes.io/hostname":"sanfran"`, `"type":"virtual-kubelet"`} {
		if !strings.Contains(labels, want) {
			t.Errorf("node sanfran lacks the label %s: %s", want, labels)
		}
	}
}

// The whole path, as the README has it: kubectl run, Ready, gateway, Service
// from node and from pod, deletion.
func TestFunctionFromRunToDelete(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "hello", "hello")
	waitReady(t, namespace, "hello")

	var p pod
	get(t, &p, "pod", "hello", "-n", namespace)
	if p.Status.Phase != "Running" || p.Spec.NodeName != "sanfran" || p.Status.PodIP == "" {
		t.Errorf("phase %q on node %q with address %q, want Running on sanfran with an address", p.Status.Phase, p.Spec.NodeName, p.Status.PodIP)
	}
	for _, kind := range []string{"PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"} {
		if got := p.condition(kind); got != "True" {
			t.Errorf("condition %s is %q, want True", kind, got)
		}
	}
	for _, toleration := range p.Spec.Tolerations {
		if strings.HasPrefix(toleration.Key, "node.kubernetes.io/") && toleration.TolerationSeconds != nil {
			t.Errorf("toleration of %s ends after %d s; an outage of the control plane would evict the pod", toleration.Key, *toleration.TolerationSeconds)
		}
	}

	for range 2 {
		status, body := fetch(t, gateway(namespace, "hello", "?name=Vik"))
		if status != 200 || body != "Hello Vik" {
			t.Errorf("at the gateway: %d %q, want 200 \"Hello Vik\"", status, body)
		}
	}

	ip := expose(t, namespace, "hello", 8080)
	if got := inCluster(t, namespace, "http://"+ip+"/?name=pod"); got != "Hello pod" {
		t.Errorf("ClusterIP from a pod: %q, want \"Hello pod\"", got)
	}
	if got := inCluster(t, namespace, fmt.Sprintf("http://hello.%s/?name=dns", namespace)); got != "Hello dns" {
		t.Errorf("Service by name from a pod: %q, want \"Hello dns\"", got)
	}
	if got := inCluster(t, namespace, fmt.Sprintf("http://%s:8080/?name=address", p.Status.PodIP)); got != "Hello address" {
		t.Errorf("the pod's address from a pod: %q, want \"Hello address\"", got)
	}
	if ownCluster {
		got, err := onNode(t, "curl", "-sS", "--max-time", "10", "http://"+ip+"/?name=node")
		if err != nil || got != "Hello node" {
			t.Errorf("ClusterIP from the node: %q, %v, want \"Hello node\"", got, err)
		}
	}

	kubectl(t, "delete", "pod", "hello", "-n", namespace, "--timeout=10s")
	status, body := fetch(t, gateway(namespace, "hello", ""))
	if status != 404 && status != 503 {
		t.Errorf("at the gateway after deletion: %d %q, want 404 or 503", status, body)
	}
	if _, err := run(t, "", "kubectl", "exec", "-n", namespace, "client", "--", "timeout", "2", "wget", "-q", "-O", "-", fmt.Sprintf("http://%s:8080/", p.Status.PodIP)); err == nil {
		t.Errorf("%s still answers after its pod was deleted", p.Status.PodIP)
	}
}

// The pod is parked after its idle time, stays Ready, and answers again, at
// the gateway and at its address.
func TestParkedFunctionAnswers(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	configMap(t, namespace, "count", "let n = 0; module.exports = (req, res) => res.send(String(++n))")
	runFunction(t, namespace, "count", "count", "--annotations=sanfran.dev/idle-timeout=2s")
	waitReady(t, namespace, "count")
	var p pod
	get(t, &p, "pod", "count", "-n", namespace)

	address := fmt.Sprintf("http://%s:8080/", p.Status.PodIP)
	for _, way := range []struct {
		name string
		// twice calls the function two times in quick succession, well within
		// its idle time, and returns both answers.
		twice func() string
	}{
		{"gateway", func() string {
			_, first := fetch(t, gateway(namespace, "count", ""))
			_, second := fetch(t, gateway(namespace, "count", ""))
			return first + " " + second
		}},
		{"address", func() string {
			return kubectl(t, "exec", "-n", namespace, "client", "--", "sh", "-c",
				fmt.Sprintf("echo -n \"$(wget -q -O - %[1]s) $(wget -q -O - %[1]s)\"", address))
		}},
	} {
		way.twice()
		untilLogged(t, "pod parked", p.Metadata.UID)
		// A fresh container counts from the start, and goes on.
		if got := way.twice(); got != "1 2" {
			t.Errorf("two requests after parking, by %s: counts %q, want \"1 2\", of one fresh container", way.name, got)
		}
		get(t, &p, "pod", "count", "-n", namespace)
		if p.condition("Ready") != "True" || p.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("after parking: Ready %s, %d restarts; want True and none", p.condition("Ready"), p.Status.ContainerStatuses[0].RestartCount)
		}
	}
}

func TestDemos(t *testing.T) {
	namespace := newNamespace(t)
	for _, demo := range []string{"hello", "headers", "greet", "server"} {
		kubectl(t, "apply", "-n", namespace, "-k", "../../demo/"+demo)
	}
	waitReady(t, namespace, "hello")
	kubectl(t, "wait", "-n", namespace, "--for=condition=Available", "deployment/headers", "deployment/greet", "deployment/server", "--timeout=60s")
	for path, want := range map[string]string{
		"hello?name=Vik":               "Hello Vik",
		"server?name=Vik":              "Hello Vik",
		"greet/morning?name=Vik":       `{"greeting":"Good morning, Vik"}`,
		"greet/evening?language=fr":    `{"greeting":"Bonsoir, World"}`,
		"greet/languages":              `["en","fr","hi"]`,
		"headers":                      `"x-forwarded-prefix":"/ns/` + namespace + `/fn/headers"`,
		"greet/morning?language=dutch": `no greeting in \"dutch\"`,
	} {
		if _, body := fetch(t, gateway(namespace, path, "")); !strings.Contains(body, want) {
			t.Errorf("/fn/%s: %q, want %q", path, body, want)
		}
	}
	if status, body := fetch(t, gateway(namespace, "greet", "/noon")); status != 404 {
		t.Errorf("/fn/greet/noon, which greet does not export: %d %q, want 404", status, body)
	}
}

// What a function pod can name but SanFran cannot run is never Ready and says
// why, and what to change.
func TestBadInputIsNeverReadyAndSaysWhy(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "syntax", "module.exports = (req, res) => {\n  res.send('unbalanced'\n}")
	configMap(t, namespace, "missing-module", "const x = require('no-such-module')\nmodule.exports = (req, res) => res.send('x')")
	configMap(t, namespace, "no-handler", "console.log('nothing exported')")
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "syntax", "syntax")
	runFunction(t, namespace, "missing-module", "missing-module")
	runFunction(t, namespace, "no-handler", "no-handler")
	runFunction(t, namespace, "no-configmap", "no-such-configmap")
	apply(t, namespace, `
apiVersion: v1
kind: Pod
metadata: {name: two-containers}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  containers:
    - {name: one, image: "sanfran/node:24"}
    - {name: two, image: "sanfran/node:24"}
---
apiVersion: v1
kind: Pod
metadata: {name: host-path}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  containers:
    - {name: one, image: "sanfran/node:24", volumeMounts: [{name: host, mountPath: /function}]}
  volumes:
    - {name: host, hostPath: {path: /etc}}
---
apiVersion: v1
kind: Pod
metadata: {name: other-image}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  containers:
    - {name: one, image: "nginx:1"}
`)
	for _, c := range []struct {
		pod string
		// Words the description must hold: the reason, and what to change.
		want []string
	}{
		{"syntax", []string{"SyntaxError", "index.js:2"}},
		{"missing-module", []string{"no-such-module", "index.js"}},
		{"no-handler", []string{"NoHandler", "module.exports"}},
		{"no-configmap", []string{"FailedMount", `configmap "no-such-configmap" not found`}},
		{"two-containers", []string{"spec.containers", "one container"}},
		{"host-path", []string{"hostPath", "configMap"}},
		{"other-image", []string{"nginx:1", "sanfran/node:24"}},
	} {
		t.Run(c.pod, func(t *testing.T) {
			// The event is what a user finds first; it is also when the provider
			// has made up its mind.
			kubectl(t, "wait", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}", "pod/"+c.pod, "--timeout=60s")
			var description string
			eventually(t, namespace, c.pod, func() bool {
				description = kubectl(t, "describe", "pod", c.pod, "-n", namespace)
				for _, want := range c.want {
					if !strings.Contains(description, want) {
						return false
					}
				}
				return true
			}, func() string {
				return fmt.Sprintf("kubectl describe lacks one of %q:\n%s", c.want, description)
			})
			var p pod
			get(t, &p, "pod", c.pod, "-n", namespace)
			if p.condition("Ready") == "True" || p.Status.Phase == "Failed" {
				t.Errorf("Ready %q, phase %s; want a pod that is not Ready and not Failed (its controller would make another)", p.condition("Ready"), p.Status.Phase)
			}
		})
	}
	t.Run("corrected ConfigMap", func(t *testing.T) {
		// The name that was missing appears: the pod needs nothing else.
		configMap(t, namespace, "no-such-configmap", helloCode)
		waitReady(t, namespace, "no-configmap")
	})
}

// eventually asks again whenever something happens to a pod, until it is as
// wanted.
func eventually(t *testing.T, namespace, pod string, ok func() bool, failure func() string) {
	t.Helper()
	changes := watchEvents(t, namespace, pod)
	for !ok() {
		if !changes.next() {
			t.Fatal(failure())
		}
	}
}

// Ordinary pods never land on the virtual node.
func TestOrdinaryPodsStayAway(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	var p pod
	get(t, &p, "pod", "client", "-n", namespace)
	if p.Spec.NodeName == "sanfran" {
		t.Error("an ordinary pod runs on the virtual node")
	}
}

func TestRuntimeClassLands(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "hello", helloCode)
	apply(t, namespace, `
apiVersion: v1
kind: Pod
metadata: {name: hello}
spec:
  runtimeClassName: sanfran
  containers:
    - {name: hello, image: "sanfran/node:24", volumeMounts: [{name: code, mountPath: /function}]}
  volumes:
    - {name: code, configMap: {name: hello}}
`)
	waitReady(t, namespace, "hello")
	if status, body := fetch(t, gateway(namespace, "hello", "")); status != 200 || body != "Hello World" {
		t.Errorf("%d %q, want 200 \"Hello World\"", status, body)
	}
}

// Functions of two versions of Node.js run side by side, each in its own.
func TestNode26RunsBesideNode24(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "version", "module.exports = (req, res) => res.send(process.version)")
	for tag, want := range map[string]string{"26": "v26.", "24": "v24."} {
		name := "on-" + tag
		runFunction(t, namespace, name, "version", "--image=sanfran/node:"+tag)
		waitReady(t, namespace, name)
		if status, body := fetch(t, gateway(namespace, name, "")); status != 200 || !strings.HasPrefix(body, want) {
			t.Errorf("sanfran/node:%s: %d %q, want %s", tag, status, body, want)
		}
	}
}

// The commands of the README between <!-- run --> and <!-- end --> do what
// they say.
func TestReadmeCommands(t *testing.T) {
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	script := markedCommands(t, string(data))
	namespace := newNamespace(t)
	client(t, namespace)
	kubectl(t, "config", "current-context")
	out, err := run(t, "", "bash", "-euo", "pipefail", "-c", fmt.Sprintf(`
export GATEWAY=%q
kubectl() { command kubectl -n %s "$@"; }
curl() { command curl -sS --fail --retry 5 --retry-all-errors "${@//\/fn\//\/ns\/%s\/fn\/}"; }
cd ../..
%s`, gatewayURL, namespace, namespace, script))
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(out, "Hello Vik") {
		t.Errorf("the README's commands printed no \"Hello Vik\":\n%s", out)
	}
}

func markedCommands(t *testing.T, text string) string {
	t.Helper()
	var commands strings.Builder
	for _, part := range strings.Split(text, "<!-- run -->")[1:] {
		block, _, ok := strings.Cut(part, "<!-- end -->")
		if !ok {
			t.Fatal("a <!-- run --> without its <!-- end -->")
		}
		for _, line := range strings.Split(block, "\n") {
			if !strings.HasPrefix(line, "```") {
				commands.WriteString(line + "\n")
			}
		}
	}
	if commands.Len() == 0 {
		t.Fatal("the README has no commands to run")
	}
	return commands.String()
}
