//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// load sends requests to one URL until it is stopped, and counts.
type load struct {
	name string
	// transport is nil for http.DefaultTransport.
	transport http.RoundTripper
	answered  atomic.Int64
	mu        sync.Mutex
	failed    []string
}

// run sends one request after the other.
func (l *load) run(ctx context.Context, url, want string) {
	client := &http.Client{Timeout: patience, Transport: l.transport}
	for ctx.Err() == nil {
		// What is under way when it is stopped counts, too.
		if err := ask(context.WithoutCancel(ctx), client, url, want); err != nil {
			l.mu.Lock()
			l.failed = append(l.failed, fmt.Sprintf("%s: %v", time.Now().Format("15:04:05.000"), err))
			l.mu.Unlock()
		} else {
			l.answered.Add(1)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func ask(ctx context.Context, client *http.Client, url, want string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || string(body) != want {
		return fmt.Errorf("%d %.200q (%v)", res.StatusCode, body, err)
	}
	return nil
}

// TestHandover ends one agent's pod after the other, as an update of the
// DaemonSet does, while requests are under way: the pods are handed over to the
// other node's agent, are Ready all the time, and no request at the gateway fails.
// Those through a Service are counted only: on the very node whose agent is away
// nobody has the functions' addresses.
func TestHandover(t *testing.T) {
	agents := strings.Fields(kubectl(t, "get", "pods", "-n", release, "-l", "app.kubernetes.io/component=agent", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(agents) < 2 {
		t.Skip("the cluster has one agent, which has nobody to hand its pods over to; test/robustness/two-nodes.sh has two")
	}
	namespace := newNamespace(t)
	client(t, namespace)
	configMap(t, namespace, "hello", helloCode)
	configMap(t, namespace, "slow", `module.exports = (req, res) => setTimeout(() => res.send('slow'), 3000)`)
	functions := map[string]string{"busy": "Hello World", "twin": "Hello World", "slow": "slow", "server": "Hello World"}
	for _, name := range []string{"busy", "twin"} {
		runFunction(t, namespace, name, "hello", "--annotations=sanfran.dev/idle-timeout=10m")
	}
	runFunction(t, namespace, "slow", "slow")
	runFunction(t, namespace, "parked", "hello", "--annotations=sanfran.dev/idle-timeout=1s")
	runServer(t, namespace, "server")
	for name := range functions {
		waitReady(t, namespace, name)
	}
	waitReady(t, namespace, "parked")
	ip := expose(t, namespace, "busy", 8080)
	readySince := func() string {
		return kubectl(t, "get", "pods", "-n", namespace, "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status},{.status.conditions[?(@.type=="Ready")].lastTransitionTime} {end}`)
	}
	before := readySince()

	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	var loads []*load
	for name, want := range functions {
		l := &load{name: name}
		loads = append(loads, l)
		for range 3 {
			running.Go(func() { l.run(ctx, gateway(namespace, name, "/"), want) })
		}
	}
	const loop = `ok=0; bad=0; while [ ! -e /tmp/stop ]; do if timeout 5 wget -q -O - http://%s/ >/dev/null; then ok=$((ok+1)); else bad=$((bad+1)); fi; sleep 0.1; done; echo "$ok answered, $bad failed"`
	var throughService string
	var serviceErr error
	serviceDone := make(chan struct{})
	running.Go(func() {
		defer close(serviceDone)
		out, err := exec.CommandContext(ctx, "kubectl", "exec", "-n", namespace, "client", "--", "sh", "-c", fmt.Sprintf(loop, ip)).CombinedOutput()
		throughService, serviceErr = string(out), err
	})

	for _, agent := range agents {
		begun := time.Now()
		kubectl(t, "delete", "pod", agent, "-n", release, "--timeout=85s")
		t.Logf("agent %s was gone after %v", agent, time.Since(begun).Round(100*time.Millisecond))
		kubectl(t, "rollout", "status", "-n", release, "daemonset/sanfran-agent", "--timeout=80s")
		if status, body := fetch(t, gateway(namespace, "parked", "/")); status != 200 || body != "Hello World" {
			t.Errorf("a parked pod that was handed over: %d %q", status, body)
		}
	}
	kubectl(t, "exec", "-n", namespace, "client", "--", "touch", "/tmp/stop")
	<-serviceDone
	stop()
	running.Wait()
	for _, l := range loads {
		t.Logf("%s: %d answered", l.name, l.answered.Load())
		if len(l.failed) > 0 {
			t.Errorf("%s: %d requests at the gateway failed, first: %s", l.name, len(l.failed), strings.Join(l.failed[:min(3, len(l.failed))], "\n"))
		}
		if l.answered.Load() == 0 {
			t.Errorf("%s: no request was answered", l.name)
		}
	}
	t.Logf("through a Service: %s (%v)", strings.TrimSpace(throughService), serviceErr)
	if after := readySince(); after != before {
		t.Errorf("pods were not Ready all the time:\nbefore %s\nafter  %s", before, after)
	}
}
