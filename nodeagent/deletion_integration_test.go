//go:build integration

package nodeagent

import (
	"net/http"
	"strings"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestADeletedPodAnswersAsLongAsItIsCalled deletes pods to which new connections go
// on coming, as they do while kube-proxy does not know: each is served. When no more
// come, the pod is gone long before its grace period is over.
func TestADeletedPodAnswersAsLongAsItIsCalled(t *testing.T) {
	const settle = 300 * time.Millisecond
	a := startAgent(t, func(c *Config) { c.EndpointSettle = settle })
	server := `const server = require('http').createServer((req, res) => res.end('hello')).listen(8080);`
	handler := map[string]string{"index.js": `module.exports = (req, res) => res.send('hello')`}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	call := func(address string) error {
		res, err := client.Get("http://" + address + ":8080/")
		if err != nil {
			return err
		}
		return res.Body.Close()
	}
	for _, test := range []struct {
		name, address string
		files         map[string]string
		command       []string
		parked        bool
	}{
		{"active", "10.245.8.1", handler, nil, false},
		{"parked", "10.245.8.2", handler, nil, true},
		{"program", "10.245.8.3", map[string]string{"server.js": server}, []string{"node", "server.js"}, false},
		{"listener", "10.245.8.4", map[string]string{"server.js": server + `process.on('SIGTERM', () => server.close())`}, []string{"node", "server.js"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := assignment(test.name, test.address, a.cp.bundle(test.files))
			pod.Command, pod.StartParked = test.command, test.parked
			state := agentv1.PodState_POD_STATE_ACTIVE
			if test.parked {
				state = agentv1.PodState_POD_STATE_PARKED
			}
			a.cp.assign(pod)
			a.cp.waitState(pod, state)
			p := a.pods.get(pod.GetPodUid())
			a.cp.withdraw(pod, time.Hour)
			eventually(t, "the deletion", p.isDeleted)
			calls := 0
			for begun := time.Now(); time.Since(begun) < 3*settle; calls++ {
				if err := call(test.address); err != nil {
					t.Fatalf("call %d, %v after the deletion: %v", calls, time.Since(begun), err)
				}
			}
			if a.pods.get(pod.GetPodUid()) != p {
				t.Error("withdrawn though it is called")
			}
			a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
			if err := call(test.address); err == nil || !strings.Contains(err.Error(), "refused") {
				t.Errorf("after the pod: %v, want a refused connection", err)
			}
		})
	}
}
