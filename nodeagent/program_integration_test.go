//go:build integration

package nodeagent

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// converse asks a real agent for a stream, as testAgent's does.
func (a *realAgent) converse(t *testing.T, want *streamsv1.AnswerResponse) *conversation {
	t.Helper()
	return (&testAgent{Agent: a.Agent, t: t, cp: a.cp}).converse(want)
}

func (a *realAgent) run(t *testing.T, pod *agentv1.Assignment, e *streamsv1.Exec) *conversation {
	t.Helper()
	return (&testAgent{Agent: a.Agent, t: t, cp: a.cp}).run(pod.GetPodUid(), e)
}

// TestProgramsInARealContainer runs programs in a parked pod: they find what the
// function does, are confined as it is, and keep the pod active.
func TestProgramsInARealContainer(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("tools", "10.245.3.40", a.cp.bundle(map[string]string{"index.js": `
		module.exports = (req, res) => res.json([process.cwd(), process.env.GREETING, require('fs').readFileSync('/proc/self/cgroup', 'utf8'), require('fs').readlinkSync('/proc/self/ns/net')])`}))
	pod.Env = []*agentv1.EnvVar{{Name: "GREETING", Value: "moin"}}
	pod.IdleTimeout = durationpb.New(200 * time.Millisecond)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	h := a.run(t, pod, &streamsv1.Exec{Command: []string{"node", "-p",
		`JSON.stringify([process.cwd(), process.env.GREETING, require('fs').readFileSync('/proc/self/cgroup', 'utf8'), require('fs').readlinkSync('/proc/self/ns/net').replace(/\d+/, '')])`}, Stdout: true, Stderr: true}).listen(toTheEnd)
	if h.code != 0 || !strings.HasPrefix(h.out, `["/function","moin",`) {
		t.Errorf("%+v", h)
	}
	// Side by side with the function, in its namespaces.
	c := a.run(t, pod, &streamsv1.Exec{Command: []string{"sh"}, Stdin: true, Stdout: true})
	c.data("readlink /proc/self/ns/net; cat /proc/self/cgroup; grep -E 'CapEff|NoNewPrivs|Seccomp:|Uid' /proc/self/status; cat /function/index.js | wc -l; exit 4\n")
	_, body, _ := a.viaData(t, pod, "/")
	h = c.listen(toTheEnd)
	for _, line := range []string{"CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "Uid:\t65534\t65534\t65534\t65534"} {
		if !strings.Contains(h.out, line+"\n") {
			t.Errorf("a program is not confined: no %q in\n%s", line, h.out)
		}
	}
	network, rest, _ := strings.Cut(h.out, "\n")
	groups, _, _ := strings.Cut(rest, "Uid:")
	if want := fmt.Sprintf(`["/function","moin",%q,%q]`, groups, network); body != want || h.code != 4 {
		t.Errorf("the function is in %s\nthe program in %s\nexit code %d", body, want, h.code)
	}
	// It keeps the pod active for longer than its idle time, and no longer.
	c = a.run(t, pod, &streamsv1.Exec{Command: []string{"sh", "-c", "sleep 1; echo awake"}, Stdout: true})
	if h := c.listen(toTheEnd); h.out != "awake\n" || h.code != 0 {
		t.Errorf("%+v", h)
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	// A container that ends takes its programs along.
	c = a.run(t, pod, &streamsv1.Exec{Command: []string{"sleep", "999"}})
	a.cp.withdraw(pod, 0)
	if h := c.listen(toTheEnd); h.code != 137 {
		t.Errorf("the container ended: %+v", h)
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, a.cfg)
}

// TestPortsOfARealContainer reaches the function by its own port, parked and active,
// and other listeners of its on the loopback device inside.
func TestPortsOfARealContainer(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("ports", "10.245.3.41", a.cp.bundle(map[string]string{"index.js": `
		const net = require('net')
		const echo = (name) => net.createServer({ allowHalfOpen: true }, (c) => { c.write(name); c.pipe(c) })
		exports.function = (req, res) => res.end('the function')
		exports.open = (req, res) => echo('four ').listen(7004, '127.0.0.1', () => echo('six ').listen(7006, '::1', () => res.end('listening')))`}))
	pod.IdleTimeout = durationpb.New(200 * time.Millisecond)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	forward := func(port uint32) *conversation {
		t.Helper()
		return a.converse(t, &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Forward{Forward: &streamsv1.Forward{PodUid: pod.GetPodUid(), Port: port}}})
	}
	get := func(c *conversation, path string) string {
		t.Helper()
		c.data("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		h := c.listen(func(h heard) bool { return h.end })
		res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(h.out)), nil)
		if err != nil {
			t.Fatalf("%q: %v", h.out, err)
		}
		defer res.Body.Close()
		body := new(strings.Builder)
		if _, err := bufio.NewReader(res.Body).WriteTo(body); err != nil || res.StatusCode != 200 {
			t.Fatalf("%d %q %v", res.StatusCode, body, err)
		}
		return body.String()
	}
	held := forward(8080) // parked: activated by the connection itself
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	if got := get(forward(8080), "/function"); got != "the function" {
		t.Errorf("by the pod's port: %q", got)
	}
	if got := get(forward(8080), "/open"); got != "listening" {
		t.Error(got)
	}
	for port, name := range map[uint32]string{7004: "four ", 7006: "six "} {
		c := forward(port)
		c.data("hello")
		c.end()
		if h := c.listen(toTheEnd); h.out != name+"hello" || !h.end || h.failure != nil {
			t.Errorf("port %d inside: %+v", port, h)
		}
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:7004", time.Second); err == nil {
		t.Error("what listens inside is reached on the node")
	}
	if got := get(held, "/function"); got != "the function" {
		t.Errorf("on the first connection: %q", got)
	}
	a.cp.endStreams()
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
}

// TestUsageOfARealFunction measures a function that works.
func TestUsageOfARealFunction(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("busy", "10.245.3.42", a.cp.bundle(map[string]string{"index.js": `
		const kept = []
		module.exports = (req, res) => { const end = process.cpuUsage().user + 500e3; while (process.cpuUsage().user < end); kept.push(Buffer.alloc(20 << 20, 1)); res.end('done') }`}))
	pod.IdleTimeout = durationpb.New(200 * time.Millisecond)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	measure := func() (node *streamsv1.NodeUsage, pod *streamsv1.PodUsage) {
		t.Helper()
		c := a.converse(t, &streamsv1.AnswerResponse{Message: &streamsv1.AnswerResponse_Measure{Measure: &streamsv1.Measure{}}})
		for range 2 {
			m, err := c.stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if m.GetUsage().GetNode() != nil {
				node = m.GetUsage().GetNode()
			} else {
				pod = m.GetUsage().GetPods()[0]
			}
		}
		a.cp.endStreams() // an agent answers so many at a time
		return node, pod
	}
	nodeBefore, before := measure()
	if code, body, _ := a.viaData(t, pod, "/"); code != 200 {
		t.Fatal(code, body)
	}
	nodeAfter, after := measure()
	if used := time.Duration(after.GetCpuNanoseconds() - before.GetCpuNanoseconds()); used < 400*time.Millisecond || used > 10*time.Second {
		t.Errorf("500 ms of work count as %v", used)
	}
	if used := time.Duration(nodeAfter.GetCpuNanoseconds() - nodeBefore.GetCpuNanoseconds()); used < 400*time.Millisecond || nodeAfter.GetMemoryBytes() < after.GetMemoryBytes() {
		t.Errorf("of the node: %v, %d bytes; of the pod %d bytes", used, nodeAfter.GetMemoryBytes(), after.GetMemoryBytes())
	}
	if after.GetMemoryBytes() < 20<<20 || after.GetMemoryBytes() > 400<<20 {
		t.Errorf("it holds %d bytes", after.GetMemoryBytes())
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	for end := time.Now().Add(patience); ; {
		_, parked := measure()
		if parked.GetCpuNanoseconds() < after.GetCpuNanoseconds() {
			t.Fatalf("processor time went back from %d to %d", after.GetCpuNanoseconds(), parked.GetCpuNanoseconds())
		}
		if parked.GetMemoryBytes() == leastMemory {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("parked, it holds %d bytes", parked.GetMemoryBytes())
		}
	}
}
