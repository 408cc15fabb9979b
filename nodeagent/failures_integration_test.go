//go:build integration

package nodeagent

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// death is what a function's end looks like from all sides.
type death struct {
	// code is what a request to /die does.
	code string
	// status and reason are what the request's client is told; the reason is
	// also the owner's.
	status int
	reason string
	// message is the event's line; log is what the function's log holds.
	message, log string
	// exitCode below 0 may be any.
	exitCode int32
}

var deaths = map[string]death{
	"exit":                {"process.exit(3)", 502, "Exited", `^process\.exit\(3\) was called \(index\.js:3\)$`, `^$`, 3},
	"exit in order":       {"process.exit()", 502, "Exited", `^process\.exit\(0\) was called \(index\.js:3\)$`, `^$`, 0},
	"uncaught exception":  {"setTimeout(() => { throw new TypeError('password=1') })", 502, "UncaughtException", `^TypeError: password=1 \(index\.js:3\)$`, `TypeError: password=1\n\s+at .*index\.js:3`, 1},
	"unhandled rejection": {"Promise.reject(new RangeError('password=1'))", 502, "UnhandledRejection", `^RangeError: password=1 \(index\.js:3\)$`, `RangeError: password=1\n\s+at .*index\.js:3`, 1},
	"memory limit":        {"const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))", 502, "OOMKilled", `^the container used more memory than its limit`, `^$`, 137},
	"endless loop":        {"for (;;);", 504, "EventLoopBlocked", `^the function did not let its event loop run for more than 2s: .* \(index\.js:3\)$`, `^EventLoopBlocked: the function .*\n    at module\.exports \(/function/index\.js:3:\d+\)\n(    at .*\n)*$`, 137},
	"endless microtasks":  {"const again = () => queueMicrotask(again); again()", 504, "EventLoopBlocked", `did not let its event loop run.*\(index\.js:3\)$`, `^EventLoopBlocked: .*\n(    at .*node:.*\n)*    at again \(/function/index\.js:3:\d+\)\n(    at .*\n)*$`, 137},
	"blocked in a call":   {"require('child_process').execSync('sleep 1000')", 504, "EventLoopBlocked", `did not let its event loop run`, `^$`, 137},
	"abort":               {"process.abort()", 502, "Exited", `^the container was ended by signal SIG|exit code 134`, `.`, -1},
}

// TestEveryDeathIsPrecise lets functions die in every way while a request is in
// flight, one that came through the agent and one that a gateway sent straight
// to the container.
func TestEveryDeathIsPrecise(t *testing.T) {
	a := startAgent(t, func(c *Config) { c.EventLoopLimit, c.PoolTarget = 2*time.Second, 4 })
	n := 0
	for name, d := range deaths {
		for _, way := range []string{"agent", "gateway"} {
			n++
			pod := assignment("dies-"+strconv.Itoa(n), "10.245.4."+strconv.Itoa(n), a.cp.bundle(map[string]string{
				"index.js": "module.exports = (req, res) => {\n if (req.path !== '/die') return res.send('alive')\n" + d.code + "\n}"}))
			pod.Resources = &agentv1.Resources{MemoryBytes: 128 << 20}
			pod.IdleTimeout = durationpb.New(0)
			t.Run(name+" by "+way, func(t *testing.T) { dies(t, a, pod, way, d) })
		}
	}
}

func dies(t *testing.T, a *realAgent, pod *agentv1.Assignment, way string, d death) {
	a.cp.assign(pod)
	active := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := a.pods.get(pod.GetPodUid())
	var inst *instance
	locked(p, func() bool { inst = p.current; return true })
	var got answer
	if way == "agent" {
		got = get(t.Context(), "http://"+a.cfg.dataAddress()+"/die", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision(), router.HeaderRequestID, "r-1")
	} else {
		got = viaGateway(t, a, pod, active, "/die")
	}
	if got.err != nil {
		t.Fatal(got.err)
	}
	if got.code != d.status || !strings.Contains(got.body, `"code":"`+d.reason+`"`) || !strings.Contains(got.body, `"requestId":"r-1"`) {
		t.Errorf("the request in flight: %d %s, want %d %s", got.code, got.body, d.status, d.reason)
	}
	if strings.Contains(got.body, "password") {
		t.Errorf("a caller is told what the function threw: %s", got.body)
	}
	s := a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	end := s.GetLastTermination()
	line, _, _ := strings.Cut(end.GetMessage(), "\n")
	if end.GetReason() != d.reason || !regexp.MustCompile(d.message).MatchString(line) || s.GetRestartCount() != 1 {
		t.Errorf("the owner is told %d restarts, %v", s.GetRestartCount(), end)
	}
	if end.GetExitCode() != d.exitCode && d.exitCode >= 0 {
		t.Errorf("exit code %d, want %d", end.GetExitCode(), d.exitCode)
	}
	inst.warm.output.finish()
	if log := inst.warm.output.last(); !regexp.MustCompile(d.log).MatchString(log) {
		t.Errorf("the log is %q, want %s", log, d.log)
	}
	if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "alive" {
		t.Errorf("the next request: %d %q", code, body)
	}
	a.cp.withdraw(pod, 0)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
}

// viaGateway sends a request straight to the container, as a gateway does.
func viaGateway(t *testing.T, a *realAgent, pod *agentv1.Assignment, active *agentv1.PodStatus, path string) answer {
	t.Helper()
	forwarder := router.NewForwarder(router.ForwarderConfig{Log: a.log})
	defer forwarder.Close()
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inst := active.GetInstance()
		exchange := forwarder.Begin(w, r, router.ExchangeOptions{Edge: true})
		defer exchange.End()
		exchange.Try(router.Upstream{
			Address: inst.GetAddress(), Lease: inst.GetLeaseId(), Nonce: inst.GetNonce(),
			Home: &router.Pod{UID: pod.GetPodUid(), Revision: pod.GetRevision(), HomeAddress: a.cfg.dataAddress()},
		})
	}))
	defer gateway.Close()
	return get(t.Context(), gateway.URL+path, router.HeaderRequestID, "r-1")
}

func TestAFullHeapIsToldFromAFullContainer(t *testing.T) {
	a := startAgent(t, func(c *Config) {
		c.WorkerArgs = []string{"/usr/local/bin/node", "--max-old-space-size=48", "/opt/sanfran/worker/start.js"}
	})
	pod := assignment("heap", "10.245.4.100", a.cp.bundle(map[string]string{
		"index.js": "module.exports = (req, res) => { const all = []; for (;;) all.push(new Array(1000).fill(all.length)) }"}))
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	if code, body, _ := a.viaData(t, pod, "/"); code != http.StatusBadGateway || !strings.Contains(body, ReasonHeapOutOfMemory) {
		t.Errorf("%d %s", code, body)
	}
	end := a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED).GetLastTermination()
	if end.GetReason() != ReasonHeapOutOfMemory || end.GetExitCode() == 0 || !strings.Contains(end.GetMessage(), "JavaScript heap out of memory") {
		t.Errorf("%v", end)
	}
}

// TestWhatDoesNotLoadIsPrecise loads functions that cannot be: each failure is
// one line, with its stack and the exit code of its container.
func TestWhatDoesNotLoadIsPrecise(t *testing.T) {
	a := startAgent(t, func(c *Config) { c.LoadTimeout, c.PoolTarget = time.Second, 4 })
	for name, tc := range map[string]struct {
		code, reason, message string
		status                int
		exitCode              int32
	}{
		"syntax":       {"module.exports = (req res) => 1", "SyntaxError", `^index\.js:1: `, 502, 1},
		"module":       {"require('./lib')", "ModuleNotFound", `^cannot find module './lib', imported by index\.js$`, 502, 1},
		"no-handler":   {"exports.a = 1", "NoHandler", `^index\.js exports an object with a, which cannot answer`, 502, 1},
		"throws":       {"\nthrow new Error('password=1')", "LoadError", `^Error: password=1 \(index\.js:2\)$`, 502, 1},
		"exits":        {"process.exit(5)", "Exited", `^process\.exit\(5\) was called while`, 502, 5},
		"never-loaded": {"for (;;);", "LoadTimeout", `^the function did not load within 1s \(index\.js:1\)$`, 504, 137},
		"memory":       {"const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))", "OOMKilled", `^the container used more memory`, 502, 137},
	} {
		t.Run(name, func(t *testing.T) {
			address := "10.245.5." + strconv.Itoa(len(name))
			pod := assignment(name, address, a.cp.bundle(map[string]string{"index.js": tc.code}))
			pod.Resources = &agentv1.Resources{MemoryBytes: 128 << 20}
			a.cp.assign(pod)
			s := a.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED)
			line, stack, _ := strings.Cut(s.GetMessage(), "\n")
			if s.GetReason() != tc.reason || !regexp.MustCompile(tc.message).MatchString(line) {
				t.Errorf("%s: %s", s.GetReason(), s.GetMessage())
			}
			if stack == "" && tc.reason != "OOMKilled" {
				t.Error("no stack")
			}
			if end := s.GetLastTermination(); end.GetExitCode() != tc.exitCode || end.GetReason() != tc.reason || s.GetRestartCount() != 0 {
				t.Errorf("%d restarts, ended with %v", s.GetRestartCount(), end)
			}
			code, body, _ := a.viaData(t, pod, "/")
			if code != tc.status || !strings.Contains(body, tc.reason) || strings.Contains(body, "password") {
				t.Errorf("a request gets %d %s", code, body)
			}
			a.cp.withdraw(pod, 0)
			a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
		})
	}
}

// TestALongComputationIsNoFailure keeps the event loop from running for a time
// below the limit, again and again.
func TestALongComputationIsNoFailure(t *testing.T) {
	a := startAgent(t, func(c *Config) { c.EventLoopLimit = 2 * time.Second })
	pod := assignment("computes", "10.245.4.101", a.cp.bundle(map[string]string{
		"index.js": "module.exports = (req, res) => { const end = Date.now() + 1800; while (Date.now() < end); res.send('done') }"}))
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	for range 3 {
		if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "done" {
			t.Fatalf("%d %s", code, body)
		}
	}
	// A queue of them is answered one after the other, far beyond the limit.
	answers := make(chan answer, 4)
	for range cap(answers) {
		go func() { answers <- a.viaDataAnswer(t, pod) }()
	}
	for range cap(answers) {
		if got := <-answers; got.err != nil || got.code != 200 {
			t.Errorf("%d %q %v", got.code, got.body, got.err)
		}
	}
}

// TestTheEndOfALease lets a function hear of its end, in the real container.
func TestTheEndOfALease(t *testing.T) {
	a := startAgent(t, nil)
	const log = `for (const e of ['SIGTERM', 'beforeExit', 'exit']) process.on(e, (...a) => console.log(e, ...a))
		const timer = setInterval(() => {}, 1000)
		process.on('SIGTERM', () => setTimeout(() => clearInterval(timer), 100))
		module.exports = (req, res) => res.send('here')`
	pod := assignment("hears", "10.245.4.102", a.cp.bundle(map[string]string{"index.js": log}))
	pod.IdleTimeout = durationpb.New(300 * time.Millisecond)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := a.pods.get(pod.GetPodUid())
	var inst *instance
	locked(p, func() bool { inst = p.current; return true })
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	wait(t, inst.ended)
	if got, want := inst.warm.output.last(), "SIGTERM SIGTERM 15\nbeforeExit 0\nexit 0\n"; got != want {
		t.Errorf("parked: the log is %q, want %q", got, want)
	}
	if status := inst.warm.container.ExitStatus(); status.Code != 0 || status.Signal != 0 {
		t.Errorf("parked: %v", status)
	}
	if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "here" {
		t.Fatalf("%d %s", code, body)
	}
	locked(p, func() bool { inst = p.current; return true })
	a.cp.withdraw(pod, 10*time.Second)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	wait(t, inst.warm.container.Exited())
	if status := inst.warm.container.ExitStatus(); status.Code != 0 || status.Signal != 0 {
		t.Errorf("deleted: %v", status)
	}
}

// TestAServerEndsByItself deletes a pod whose server closes its connections when
// it hears of SIGTERM: the request that runs is answered.
func TestAServerEndsByItself(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("server", "10.245.4.103", a.cp.bundle(map[string]string{
		"package.json": `{"scripts":{"start":"node server.js"}}`,
		"server.js": `let waiting
			const server = require('http').createServer((req, res) => { if (req.url === '/wait') waiting = res; else res.end('ok') })
			process.on('SIGTERM', () => { console.log('closing'); server.close(() => console.log('closed')); waiting.end('waited') })
			process.on('exit', (code) => console.log('exit', code))
			server.listen(8080)`,
	}))
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := a.pods.get(pod.GetPodUid())
	var inst *instance
	locked(p, func() bool { inst = p.current; return true })
	got := make(chan answer, 1)
	go func() {
		got <- get(t.Context(), "http://"+a.cfg.dataAddress()+"/wait", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
	}()
	eventually(t, "the request to run", func() bool { return inst.warm.conn.Activity().InFlight == 1 })
	a.cp.withdraw(pod, time.Minute)
	if answer := <-got; answer.err != nil || answer.code != 200 || answer.body != "waited" {
		t.Errorf("%d %q %v", answer.code, answer.body, answer.err)
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	wait(t, inst.ended)
	if got, want := inst.warm.output.last(), "closing\nclosed\nexit 0\n"; got != want {
		t.Errorf("the log is %q, want %q", got, want)
	}
	if status := inst.warm.container.ExitStatus(); status.Code != 0 || status.Signal != 0 {
		t.Errorf("%v", status)
	}
}

func wait(t *testing.T, done <-chan struct{}) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatal("waited in vain")
	}
}
