//go:build integration

package nodeagent

import (
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// TestWhoWaitsInADeadContainersQueueIsAnswered kills a container that accepts
// nothing, with hundreds of requests in its socket's queue: those at the pod's
// address are served by the next container, those at the container's port are
// refused in the name of its lease (I2).
func TestWhoWaitsInADeadContainersQueueIsAnswered(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("blocks", "10.245.3.21", a.cp.bundle(map[string]string{"index.js": `module.exports = (req, res) => {
		if (req.path !== '/block') return res.send('served ' + req.query.n)
		res.write('blocks')
		// What was written is on its way by then; nothing is accepted any more.
		setImmediate(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0))
	}`}))
	a.cp.assign(pod)
	active := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance()
	p := a.pods.get(pod.GetPodUid())
	p.mu.Lock()
	dying := p.current
	p.mu.Unlock()

	res, err := client.Get("http://10.245.3.21:8080/block")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, len("blocks"))); err != nil {
		t.Fatal(err)
	}
	const each = 200
	var byAddress, byPort []*line
	for range each {
		byAddress = append(byAddress, openLine(t, "10.245.3.21:8080", ""))
		byPort = append(byPort, openLine(t, active.GetAddress(), router.HeaderLease+": "+active.GetLeaseId()+"\r\n"))
	}
	answers := wantTakenOver(t, byAddress, byPort, active.GetNonce(), func(n int, body string) bool { return body == fmt.Sprintf("served %d", n) })
	eventually(t, "all connections to wait in the queue", func() bool { return queued(t, a.Agent, pod) == 2*each })
	killed := time.Now()
	if err := dying.warm.container.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	answers.Wait()
	t.Logf("all %d answered %v after the container's death", 2*each, time.Since(killed))
	if again := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE); again.GetInstance().GetLeaseId() == active.GetLeaseId() || again.GetRestartCount() != 1 {
		t.Errorf("after the death: %v", again)
	}
}
