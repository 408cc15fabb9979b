//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// A function that ends while a request is in flight: its client gets a status
// and the reason, its owner the container's last state, a restart and one event.
func TestDeathsAreToldPrecisely(t *testing.T) {
	namespace := newNamespace(t)
	for _, d := range []struct {
		name, code string
		status     int
		// reason is told to the client; last and exitCode are Kubernetes' words.
		reason   string
		last     string
		exitCode int
		// event is the whole line.
		event string
		// log is what kubectl logs --previous shows of it.
		log string
	}{
		{"exits", "process.exit(3)", 502, "Exited", "Error", 3, `Exited: process\.exit\(3\) was called \(index\.js:2\)`, ``},
		{"throws", "setTimeout(() => { throw new TypeError('nobody caught it') })", 502, "UncaughtException", "Error", 1, `UncaughtException: TypeError: nobody caught it \(index\.js:2\)`, `at .*index\.js:2`},
		{"grows", "const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))", 502, "OOMKilled", "OOMKilled", 137, `OOMKilled: the container used more memory than its limit; .*`, ``},
		{"loops", "for (;;);", 504, "EventLoopBlocked", "Error", 137, `EventLoopBlocked: the function did not let its event loop run for more than 30s: .* \(index\.js:2\)`, `^EventLoopBlocked: .*\n    at module\.exports \(/function/index\.js:2:\d+\)\n`},
	} {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			configMap(t, namespace, d.name, "module.exports = (req, res) => { if (req.path !== '/die') return res.send('alive')\n"+d.code+" }")
			apply(t, namespace, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  containers:
    - name: %[1]s
      image: sanfran/node:24
      resources: {limits: {memory: 128Mi}}
      volumeMounts: [{name: code, mountPath: /function}]
  volumes: [{name: code, configMap: {name: %[1]s}}]
`, d.name))
			waitReady(t, namespace, d.name)
			if status, body := fetch(t, gateway(namespace, d.name, "/")); status != 200 || body != "alive" {
				t.Fatalf("before: %d %q", status, body)
			}
			status, body := fetch(t, gateway(namespace, d.name, "/die"))
			if status != d.status || !strings.Contains(body, `"code":"`+d.reason+`"`) || !strings.Contains(body, `"requestId":"`) {
				t.Errorf("the request in flight: %d %s, want %d %s", status, body, d.status, d.reason)
			}
			event := regexp.MustCompile(`(?m)^ *Warning +Failed .* ` + d.event + `$`)
			var description string
			eventually(t, namespace, d.name, func() bool {
				description = kubectl(t, "describe", "pod", d.name, "-n", namespace)
				return event.MatchString(description)
			}, func() string { return fmt.Sprintf("no event %s:\n%s", event, description) })
			if n := strings.Count(description, "Warning "); n != 1 {
				t.Errorf("%d warnings, want one:\n%s", n, description)
			}
			var p pod
			get(t, &p, "pod", d.name, "-n", namespace)
			c := p.Status.ContainerStatuses[0]
			if last := c.LastState.Terminated; last == nil || last.Reason != d.last || last.ExitCode != d.exitCode || c.RestartCount != 1 {
				t.Errorf("%d restarts, last state %+v, want 1, %s and %d", c.RestartCount, last, d.last, d.exitCode)
			}
			if p.condition("Ready") != "True" {
				t.Errorf("Ready is %s though the next request is answered", p.condition("Ready"))
			}
			if d.log != "" {
				if log := kubectl(t, "logs", "--previous", d.name, "-n", namespace); !regexp.MustCompile(d.log).MatchString(log) {
					t.Errorf("the log lacks %s:\n%s", d.log, log)
				}
			}
			if status, body := fetch(t, gateway(namespace, d.name, "/")); status != 200 || body != "alive" {
				t.Errorf("after: %d %q", status, body)
			}
		})
	}
}

// Code that never loads waits as the kubelet has it wait, and its restarts grow.
func TestCodeThatNeverLoadsBacksOff(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "broken", "throw new Error('not today')")
	runFunction(t, namespace, "broken", "broken")
	kubectl(t, "wait", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff", "pod/broken", "--timeout=60s")
	kubectl(t, "wait", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/broken", "--timeout=60s")
	var p pod
	get(t, &p, "pod", "broken", "-n", namespace)
	c := p.Status.ContainerStatuses[0]
	if last := c.LastState.Terminated; last == nil || last.Reason != "Error" || last.ExitCode != 1 || !strings.HasPrefix(last.Message, "LoadError: Error: not today (index.js:1)\n") {
		t.Errorf("last state %+v", last)
	}
	if c.State.Waiting == nil || c.Ready || p.condition("Ready") == "True" {
		t.Errorf("%+v, Ready %s", c, p.condition("Ready"))
	}
	if status, body := fetch(t, gateway(namespace, "broken", "/")); status != 502 && status != 503 || strings.Contains(body, "not today") {
		t.Errorf("a client gets %d %s", status, body)
	}
}
