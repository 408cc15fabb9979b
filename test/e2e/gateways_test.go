//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// gatewayCallers send requests by HTTP/1.1 to two functions, one after the other in each line,
// until there is a file /tmp/stop, and print how it went. What they send is not sent
// again, as a GET may be, so that each failure is seen. A line's connection is kept
// until an answer says close, or is a new one for each request; a slow function's are
// answered when their gateway takes no more.
const gatewayCallers = `
const http = require('node:http'), fs = require('node:fs'), { setTimeout } = require('node:timers/promises')
const [url] = process.argv.slice(1)
const told = {}
const line = async (kind, path, want, agent) => {
  const tally = told[kind] ??= { answered: 0, connections: 0, failed: [] }
  while (!fs.existsSync('/tmp/stop')) {
    try {
      const res = await new Promise((resolve, reject) => {
        const req = http.request(url + path, { agent, method: 'POST' }, resolve).on('error', reject)
        req.on('socket', () => { if (!req.reusedSocket) tally.connections++ })
        req.end('body')
      })
      let body = ''
      for await (const chunk of res) body += chunk
      if (res.statusCode !== 200 || body !== want) throw new Error(res.statusCode + ' ' + body)
      tally.answered++
    } catch (err) { tally.failed.push(new Date().toISOString() + ' ' + err.message) }
    if (Object.keys(told).length === 3 && Object.values(told).every((t) => t.answered > 0)) fs.writeFileSync('/tmp/begun', '')
    await setTimeout(20)
  }
  agent.destroy()
}
const lines = []
for (let i = 0; i < 4; i++) {
  lines.push(line('kept', 'fast', 'fast', new http.Agent({ keepAlive: true, maxSockets: 1 })))
  lines.push(line('new', 'fast', 'fast', new http.Agent({ keepAlive: false })))
  lines.push(line('slow', 'slow', 'slow', new http.Agent({ keepAlive: false })))
}
Promise.all(lines).then(() => console.log(JSON.stringify(told)))
`

// TestRollingGatewaysFailNobody restarts the gateways, as an update does, and takes one
// away, while clients in the cluster call through their Service, and clients outside by
// its NodePort or load balancer: no request fails.
func TestRollingGatewaysFailNobody(t *testing.T) {
	namespace := newNamespace(t)
	configMap(t, namespace, "fast", `module.exports = (req, res) => res.send('fast')`)
	// Longer than a gateway takes requests after it was told to stop.
	configMap(t, namespace, "slow", `module.exports = (req, res) => setTimeout(() => res.send('slow'), 4000)`)
	for _, name := range []string{"fast", "slow"} {
		runFunction(t, namespace, name, name, "--annotations=sanfran.dev/idle-timeout=10m")
	}
	runFunction(t, namespace, "caller", "fast", "--annotations=sanfran.dev/idle-timeout=10m")
	for _, name := range []string{"fast", "slow", "caller"} {
		waitReady(t, namespace, name)
	}
	const component = "app.kubernetes.io/component=gateway"
	deployment := kubectl(t, "get", "deployments", "-n", release, "-l", component, "-o", "jsonpath={.items[0].metadata.name}")
	replicas := kubectl(t, "get", "deployment", deployment, "-n", release, "-o", "jsonpath={.spec.replicas}")
	more, err := strconv.Atoi(replicas)
	if err != nil {
		t.Fatalf("replicas of %s: %v", deployment, err)
	}
	more++
	address := kubectl(t, "get", "services", "-n", release, "-l", component, "-o", "jsonpath={.items[0].spec.clusterIP}:{.items[0].spec.ports[0].port}")
	pods := func() []string {
		return strings.Fields(kubectl(t, "get", "pods", "-n", release, "-l", component, "-o", "jsonpath={.items[*].metadata.name}"))
	}
	settle := func() {
		t.Helper()
		kubectl(t, "rollout", "status", "deployment", deployment, "-n", release, "--timeout=80s")
	}

	type told struct {
		out string
		err error
	}
	inside := make(chan told, 1)
	go func() {
		out, err := runFor(t, 3*patience, "", "kubectl", "exec", "-n", namespace, "caller", "--", "node", "-e", gatewayCallers, "http://"+address+"/ns/"+namespace+"/fn/")
		inside <- told{out, err}
	}()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	var loads []*load
	for version, protocols := range map[string]*http.Protocols{"HTTP/1.1": new(http.Protocols), "HTTP/2": new(http.Protocols)} {
		protocols.SetHTTP1(version == "HTTP/1.1")
		protocols.SetUnencryptedHTTP2(version == "HTTP/2")
		l := &load{name: version, transport: &http.Transport{Protocols: protocols}}
		loads = append(loads, l)
		for range 2 {
			running.Go(func() { l.run(ctx, gateway(namespace, "fast", ""), "fast") })
		}
	}
	kubectl(t, "exec", "-n", namespace, "caller", "--", "timeout", "60", "sh", "-c", "until [ -e /tmp/begun ]; do sleep 0.1; done")

	t.Cleanup(func() { kubectlAfter(t, "scale", "deployment", deployment, "-n", release, "--replicas="+replicas) })
	kubectl(t, "scale", "deployment", deployment, "-n", release, "--replicas="+strconv.Itoa(more))
	settle()
	former := pods()
	kubectl(t, "rollout", "restart", "deployment", deployment, "-n", release)
	settle()
	kubectl(t, append([]string{"wait", "pods", "-n", release, "--for=delete", "--timeout=80s"}, former...)...)
	former = pods()
	kubectl(t, "scale", "deployment", deployment, "-n", release, "--replicas="+replicas)
	until(t, "one gateway fewer", func() (string, bool) {
		now := pods()
		return strings.Join(now, " "), len(now) == len(former)-1
	})

	kubectl(t, "exec", "-n", namespace, "caller", "--", "touch", "/tmp/stop")
	in := <-inside
	stop()
	running.Wait()
	for _, l := range loads {
		t.Logf("outside, %s: %d answered", l.name, l.answered.Load())
		if len(l.failed) > 0 || l.answered.Load() == 0 {
			t.Errorf("outside, %s: %d requests failed, first: %s", l.name, len(l.failed), strings.Join(l.failed[:min(3, len(l.failed))], "\n"))
		}
	}
	var tallies map[string]struct {
		Answered, Connections int
		Failed                []string
	}
	if err := json.Unmarshal([]byte(in.out), &tallies); in.err != nil || err != nil || len(tallies) != 3 {
		t.Fatalf("the callers in the cluster say %.1000q: %v, %v", in.out, in.err, err)
	}
	for kind, tally := range tallies {
		t.Logf("in the cluster, %s: %d answered on %d connections", kind, tally.Answered, tally.Connections)
		if len(tally.Failed) > 0 {
			t.Errorf("in the cluster, %s: %d requests failed, first: %s", kind, len(tally.Failed), strings.Join(tally.Failed[:min(3, len(tally.Failed))], "\n"))
		}
	}
	// Connections are kept, and told to go elsewhere: more than one for each line, and
	// far fewer than requests.
	if kept := tallies["kept"]; kept.Connections < 8 || kept.Connections > kept.Answered/5 {
		t.Errorf("%d requests on %d connections that are kept", kept.Answered, kept.Connections)
	}
}
