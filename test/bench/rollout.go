package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// deployment is the manifest of two replicas with a Service.
func deployment(name, nodeSelector, image, command, code string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s, sanfran.dev/function: %[1]s}}
    spec:
      nodeSelector: {%[3]s}
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 3
      containers:
        - name: main
          image: %[4]s
          command: %[5]s
          ports: [{containerPort: 8080}]
          volumeMounts: [{name: code, mountPath: /function}]
      volumes: [{name: code, configMap: {name: %[6]s}}]
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec: {selector: {app: %[1]s}, ports: [{port: 80, targetPort: 8080}]}
---
`, name, namespace, nodeSelector, image, command, code)
}

const onSanfran = "kubernetes.io/hostname: sanfran"

const (
	rolloutRate = 200 // requests in a second while something is replaced
	rolloutTime = 90 * time.Second
)

// update measures how long requests still reach the former code after kubectl has
// said that there is other code, and what fails meanwhile.
func update(ctx context.Context, env *environment) ([]value, error) {
	const name = "updated"
	codes := ""
	for _, version := range []string{"one", "two"} {
		codes += fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: version-%[1]s, namespace: %[2]s}\ndata:\n  index.js: \"module.exports = (req, res) => res.send('%[1]s')\"\n---\n", version, namespace)
	}
	if _, err := kubectl(ctx, codes+deployment(name, onSanfran, "sanfran/node:24", "[]", "version-one"), "apply", "-f", "-"); err != nil {
		return nil, err
	}
	if err := rolledOut(ctx, name); err != nil {
		return nil, err
	}
	if err := answers(ctx, env.at(name)); err != nil {
		return nil, err
	}
	var changed, lastOld time.Time
	failed, sent, err := during(ctx, env.at(name), true, func(result result) {
		if result.body == "one" && result.at.After(lastOld) {
			lastOld = result.at
		}
	}, func(ctx context.Context) error {
		_, err := kubectl(ctx, "", "patch", "deployment", name, "-n", namespace, "-p", `{"spec":{"template":{"spec":{"volumes":[{"name":"code","configMap":{"name":"version-two"}}]}}}}`)
		changed = time.Now()
		if err != nil {
			return err
		}
		return rolledOut(ctx, name)
	})
	if err != nil {
		return nil, err
	}
	_, err = kubectl(ctx, "", "delete", "deployment,service", name, "-n", namespace)
	return []value{
		{"until all requests meet the new code", "s", max(lastOld.Sub(changed), 0).Seconds()},
		{"requests", "count", float64(sent)},
		{"errors", "count", float64(failed)},
	}, err
}

// roll replaces the pods of the same Deployment on a kubelet's node and on the
// virtual one. The program does not know of SIGTERM, and no probe says when it is
// ready: what fails is what the node makes of that.
func roll(ctx context.Context, env *environment) ([]value, error) {
	var values []value
	for _, kind := range []struct{ name, what, nodeSelector, image, command string }{
		{"roll-ordinary", "ordinary pods", "kubernetes.io/os: linux", env.image, ordinaryCommand},
		{"roll-function", "function pods", onSanfran, "sanfran/node:24", "[node, server.js]"},
	} {
		if _, err := kubectl(ctx, deployment(kind.name, kind.nodeSelector, kind.image, kind.command, "baseline"), "apply", "-f", "-"); err != nil {
			return nil, err
		}
		if err := rolledOut(ctx, kind.name); err != nil {
			return nil, err
		}
		address, err := kubectl(ctx, "", "get", "service", kind.name, "-n", namespace, "-o", "jsonpath=http://{.spec.clusterIP}/?name=Vik")
		if err != nil {
			return nil, err
		}
		if err := answers(ctx, address); err != nil {
			return nil, err
		}
		failed, sent, err := during(ctx, address, false, func(result) {}, func(ctx context.Context) error {
			if _, err := kubectl(ctx, "", "rollout", "restart", "deployment", kind.name, "-n", namespace); err != nil {
				return err
			}
			return rolledOut(ctx, kind.name)
		})
		if err != nil {
			return nil, err
		}
		values = append(values, value{"errors, " + kind.what, "count", float64(failed)}, value{"requests, " + kind.what, "count", float64(sent)})
		if _, err := kubectl(ctx, "", "delete", "deployment,service", kind.name, "-n", namespace); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func rolledOut(ctx context.Context, name string) error {
	_, err := kubectl(ctx, "", "rollout", "status", "deployment", name, "-n", namespace, fmt.Sprintf("--timeout=%v", rolloutTime))
	return err
}

// result is one answer.
type result struct {
	at   time.Time // when the request was sent
	body string
}

// during sends requests from two seconds before a change until five seconds after it
// is complete, when the former pods are gone, too. It returns how many failed and how
// many there were.
func during(ctx context.Context, url string, keepAlive bool, answered func(result), change func(context.Context) error) (failed, sent int, err error) {
	attacking, stop := context.WithCancel(ctx)
	changed := make(chan error, 1)
	go func() {
		defer stop()
		if err := wait(ctx, 2*time.Second); err != nil {
			changed <- err
			return
		}
		if err := change(ctx); err != nil {
			changed <- err
			return
		}
		changed <- wait(ctx, 5*time.Second)
	}()
	for r := range attack(attacking, url, rolloutRate, 2*rolloutTime, keepAlive) {
		sent++
		if r.Code != http.StatusOK {
			failed++
			continue
		}
		answered(result{at: r.Timestamp, body: strings.TrimSpace(string(r.Body))})
	}
	return failed, sent, <-changed
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
