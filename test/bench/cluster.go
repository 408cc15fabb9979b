package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"time"
)

const namespace = "sanfran-bench"

// environment is the cluster with what the cases need in it: the function
// hello on the virtual node and the same answer from an ordinary pod.
type environment struct {
	image string
	load  time.Duration
	// Base URLs as reached from inside a node.
	gateway         string
	function        string // the function pod's address
	functionService string // its ClusterIP
	serverService   string // the ClusterIP of a function pod that runs the ordinary pod's program
	baseline        string // the ordinary pod's address
	baselineService string
	// made counts the sets of parked pods, so that each round has names of its own.
	made int
	// npm is a folder with the packages of test/npm.
	npm string
	// samples are the single values of the round that is measured, for plots.
	samples map[string][]float64
}

// sample keeps latencies for a plot, in milliseconds.
func (e *environment) sample(name string, latencies []time.Duration) {
	for _, latency := range latencies {
		e.samples[name] = append(e.samples[name], milliseconds(latency))
	}
}

// sampleSome keeps as many latencies for a plot as one needs, a thousand.
func (e *environment) sampleSome(name string, latencies []time.Duration) {
	for at := 0; at < len(latencies); at += len(latencies)/1000 + 1 {
		e.sample(name, latencies[at:at+1])
	}
}

// kubectl runs kubectl with a manifest on standard input, if there is one.
func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

const helloCode = "module.exports = (req, res) => { res.send(`Hello ${req.query.name || 'World'}`) }"

// baselineCode is what the function is compared with: Node.js and nothing else.
const baselineCode = `
const http = require('node:http');
http.createServer((req, res) => {
  const name = new URL(req.url, 'http://x').searchParams.get('name');
  res.setHeader('Content-Type', 'text/html; charset=utf-8');
  res.end('Hello ' + (name || 'World'));
}).listen(8080);
`

// ordinaryCommand starts the same program with the Node.js of functions in an ordinary
// pod, whose image is the agent's.
const ordinaryCommand = `[/usr/share/sanfran/rootfs/node24/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2, --library-path, ` +
	`/usr/share/sanfran/rootfs/node24/usr/lib/x86_64-linux-gnu, /usr/share/sanfran/rootfs/node24/usr/local/bin/node, /function/server.js]`

// setUp makes the namespace with the function and the baseline, and waits
// until both answer.
func setUp(ctx context.Context, image string) (*environment, error) {
	env := &environment{image: image, samples: make(map[string][]float64)}
	if err := env.tearDown(); err != nil {
		return nil, err
	}
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: hello, namespace: %[1]s}
data:
  index.js: %[2]q
---
apiVersion: v1
kind: ConfigMap
metadata: {name: baseline, namespace: %[1]s}
data:
  server.js: %[3]q
---
apiVersion: v1
kind: Pod
metadata: {name: baseline, namespace: %[1]s, labels: {app: baseline}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: baseline
      image: %[4]s
      command: %[5]s
      volumeMounts: [{name: code, mountPath: /function}]
  volumes: [{name: code, configMap: {name: baseline}}]
---
apiVersion: v1
kind: Service
metadata: {name: baseline, namespace: %[1]s}
spec: {selector: {app: baseline}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: hello, namespace: %[1]s}
spec: {selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: %[1]s, labels: {app: server}}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  terminationGracePeriodSeconds: 1
  containers:
    - name: server
      image: sanfran/node:24
      command: [node, server.js]
      volumeMounts: [{name: code, mountPath: /function}]
  volumes: [{name: code, configMap: {name: baseline}}]
---
apiVersion: v1
kind: Service
metadata: {name: server, namespace: %[1]s}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
%[6]s`, namespace, helloCode, baselineCode, image, ordinaryCommand, functionPod("hello", "hello", "hello", "10m", "hello"))
	if _, err := kubectl(ctx, manifest, "apply", "-f", "-"); err != nil {
		return nil, err
	}
	if _, err := kubectl(ctx, "", "wait", "-n", namespace, "--for=condition=Ready", "pod/baseline", "pod/hello", "pod/server", "--timeout=90s"); err != nil {
		return nil, err
	}
	for target, query := range map[*string][]string{
		&env.function:        {"pod", "hello", "-n", namespace, "-o", "jsonpath=http://{.status.podIP}:8080"},
		&env.baseline:        {"pod", "baseline", "-n", namespace, "-o", "jsonpath=http://{.status.podIP}:8080"},
		&env.functionService: {"service", "hello", "-n", namespace, "-o", "jsonpath=http://{.spec.clusterIP}"},
		&env.serverService:   {"service", "server", "-n", namespace, "-o", "jsonpath=http://{.spec.clusterIP}"},
		&env.baselineService: {"service", "baseline", "-n", namespace, "-o", "jsonpath=http://{.spec.clusterIP}"},
		&env.gateway:         {"services", "-A", "-l", "app.kubernetes.io/name=sanfran,app.kubernetes.io/component=gateway", "-o", "jsonpath=http://{.items[0].spec.clusterIP}"},
	} {
		out, err := kubectl(ctx, "", append([]string{"get"}, query...)...)
		if err != nil {
			return nil, err
		}
		*target = out
	}
	for _, url := range []string{env.function, env.baseline, env.functionService, env.serverService, env.baselineService, env.at("hello")} {
		if err := answers(ctx, url); err != nil {
			return nil, err
		}
	}
	return env, nil
}

// answers waits until a URL answers: a Service's rules follow its endpoints.
func answers(ctx context.Context, url string) error {
	client := newClient(1)
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		_, err := once(ctx, client, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer within 30 s: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// at is a function's URL at the gateway.
func (e *environment) at(function string) string {
	return fmt.Sprintf("%s/ns/%s/fn/%s?name=Vik", e.gateway, namespace, function)
}

// functionPod is the manifest of a function pod, whose code is in a ConfigMap.
func functionPod(name, function, set, idleTimeout, code string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: %s
  labels: {app: %[3]s, sanfran.dev/function: %[3]s, %[5]s: %[6]s}
  annotations: {sanfran.dev/idle-timeout: %[4]s}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - name: function
      image: sanfran/node:24
      ports: [{containerPort: 8080}]
      volumeMounts: [{name: code, mountPath: /function}]
  volumes: [{name: code, configMap: {name: %[7]s}}]
---`, name, namespace, function, idleTimeout, setLabel, set, code)
}

// setLabel is on all pods that are made together.
const setLabel = "bench-set"

// untilPods waits until so many pods of a set have the Ready condition of that
// status; any, for an empty one.
func untilPods(ctx context.Context, set, ready string, n int) error {
	patience := 3*time.Minute + time.Duration(n)*50*time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the set %s has not %d pods of Ready=%q after %v", set, n, ready, patience))
	defer cancel()
	for {
		out, err := kubectl(ctx, "", "get", "pods", "-n", namespace, "-l", setLabel+"="+set, "-o", `jsonpath={range .items[*]}is{.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if strings.Count(out, "is"+ready) == n {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// coldIdle parks a function again soon after its one request, so that the
// containers of a round do not add up to more than the node's share.
const coldIdle = "3s"

// parkedFunctions makes n functions that have never been called, of the code in a
// ConfigMap. Another function must have proved that it loads, as hello does for its
// own, so that they begin parked.
func (e *environment) parkedFunctions(ctx context.Context, n int, code string) (urls []string, remove func() error, err error) {
	e.made++
	set := fmt.Sprintf("cold-%d", e.made)
	var manifest strings.Builder
	for i := range n {
		name := fmt.Sprintf("%s-%d", set, i)
		manifest.WriteString(functionPod(name, name, set, coldIdle, code))
		urls = append(urls, e.at(name))
	}
	remove = func() error {
		ctx := context.WithoutCancel(ctx)
		// One request for all of them; kubectl asks for five pods a second.
		path := "/api/v1/namespaces/" + namespace + "/pods?labelSelector=" + url.QueryEscape(setLabel+"="+set)
		if _, err := kubectl(ctx, "", "delete", "--raw", path); err != nil {
			return err
		}
		return untilPods(ctx, set, "", 0)
	}
	if _, err := kubectl(ctx, manifest.String(), "create", "-f", "-"); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	if err := untilPods(ctx, set, "True", n); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return urls, remove, nil
}

// tearDown removes the namespace and waits until it is gone.
func (e *environment) tearDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err := kubectl(ctx, "", "delete", "namespace", namespace, "--ignore-not-found")
	return err
}
