package nodeagent

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/workerconn"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

func TestABlockedEventLoopIsEnded(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.EventLoopLimit = 200 * time.Millisecond })
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	active := ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)

	got := ta.viaData(t.Context(), pod, "/stuck")
	wantAnswer(t, got, http.StatusGatewayTimeout, `"code":"EventLoopBlocked"`)
	s := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	if end := s.GetLastTermination(); s.GetRestartCount() != 1 || end.GetReason() != ReasonEventLoopBlocked || end.GetExitCode() != 137 || end.GetSignal() != 9 ||
		!end.GetFinishedAt().AsTime().After(end.GetStartedAt().AsTime()) {
		t.Errorf("%d restarts, %v", s.GetRestartCount(), end)
	}
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")

	// A gateway that had a request in the container asks why.
	ask := func(lease string) answer {
		return get(t.Context(), ta.data, router.HeaderFate, pod.GetPodUid()+" "+lease)
	}
	wantAnswer(t, ask(active.GetInstance().GetLeaseId()), 200, `"Status":504`)
	wantAnswer(t, ask("unknown"), http.StatusNoContent, "")
	wantAnswer(t, ask(ta.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance().GetLeaseId()), http.StatusNoContent, "")
}

func TestAnUncaughtErrorIsForTheOwner(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	got := ta.viaData(t.Context(), pod, "/throw")
	wantAnswer(t, got, http.StatusBadGateway, `"code":"UncaughtException"`)
	if strings.Contains(got.body, "password") {
		t.Errorf("a caller is told what the function threw: %s", got.body)
	}
	end := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED).GetLastTermination()
	if end.GetReason() != "UncaughtException" || !strings.HasPrefix(end.GetMessage(), "Error: password=1 (index.js:3)\n") || end.GetExitCode() != 1 {
		t.Errorf("the owner is told %v", end)
	}
}

func TestParkingIsSIGTERM(t *testing.T) {
	ta := startTestAgent(t, nil)
	ta.workers.listens = true
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.IdleTimeout = durationpb.New(5 * time.Millisecond)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	<-ta.workers.terminated
	// The pod answers while the container comes to its end.
	p := ta.pods.get(pod.GetPodUid())
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
	close(ta.workers.goOn)
	eventually(t, "the containers to be gone", func() bool { return locked(p, func() bool { return len(p.instances) == 0 }) })
}

func TestAWithdrawnPodIsGoneWhenItsFunctionHasEnded(t *testing.T) {
	ta := startTestAgent(t, nil)
	ta.workers.listens = true
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	ta.cp.withdraw(pod, time.Hour)
	<-ta.workers.terminated
	ta.cp.mu.Lock()
	for _, s := range ta.cp.statuses {
		if s.GetState() == agentv1.PodState_POD_STATE_GONE {
			t.Error("gone while its function still ends")
		}
	}
	ta.cp.mu.Unlock()
	close(ta.workers.goOn)
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
}

func TestAServerHearsOfSIGTERMWhileItDrains(t *testing.T) {
	for _, server := range []bool{true, false} {
		ta := startTestAgent(t, nil)
		ta.workers.listens, ta.workers.server = true, server
		pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
		ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
		got := make(chan answer, 1)
		go func() { got <- ta.viaData(t.Context(), pod, "/block") }()
		<-ta.workers.blocked
		ta.cp.withdraw(pod, time.Hour)
		if server {
			<-ta.workers.terminated
		}
		close(ta.workers.release)
		wantAnswer(t, <-got, 200, "default/hello")
		if !server {
			<-ta.workers.terminated
		}
		close(ta.workers.goOn)
		ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
		ta.stop()
	}
}

func TestAFunctionThatIgnoresSIGTERMIsKilled(t *testing.T) {
	ta := startTestAgent(t, nil)
	ta.workers.listens = true
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	begun := time.Now()
	ta.cp.withdraw(pod, 0)
	<-ta.workers.terminated
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	if took := time.Since(begun); took < leastTermGrace {
		t.Errorf("killed after %v, want at least %v", took, leastTermGrace)
	}
}

func TestARequestBeyondTheGracePeriodIsATimeout(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	got := make(chan answer, 1)
	go func() { got <- ta.viaData(t.Context(), pod, "/stuck") }()
	<-ta.workers.blocked
	ta.cp.withdraw(pod, 10*time.Millisecond)
	wantAnswer(t, <-got, http.StatusGatewayTimeout, ReasonGracePeriodOver)
}

func TestDeathFailure(t *testing.T) {
	word := &workerconn.Ending{Reason: "UncaughtException", Message: "Error: x", Stack: "Error: x\n    at y"}
	const heap = "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory\n"
	for name, tc := range map[string]struct {
		status          container.ExitStatus
		word            *workerconn.Ending
		output          string
		reason, message string
	}{
		"memory limit":            {container.ExitStatus{Code: 137, Signal: syscall.SIGKILL, OOMKilled: true}, word, heap, "OOMKilled", "the container used more memory than its limit; give the pod a larger resources.limits.memory\nits last output: "},
		"heap":                    {container.ExitStatus{Code: 134, Signal: syscall.SIGABRT}, nil, heap, "HeapOutOfMemory", "the function used more memory than the heap of Node.js may have\nits last output: "},
		"heap, as first process":  {container.ExitStatus{Code: 139, Signal: syscall.SIGSEGV}, nil, heap, "HeapOutOfMemory", "the function used"},
		"only says it was heap":   {container.ExitStatus{Code: 1}, nil, heap, "Exited", "the container ended by itself with exit code 1\nits last output: "},
		"uncaught":                {container.ExitStatus{Code: 1}, word, "", "UncaughtException", "Error: x\nError: x\n    at y"},
		"a word, and then killed": {container.ExitStatus{Code: 137, Signal: syscall.SIGKILL}, word, "", "Exited", "the container was ended by signal SIGKILL"},
		"silent":                  {container.ExitStatus{Code: 3}, nil, "", "Exited", "the container ended by itself with exit code 3"},
	} {
		f := deathFailure(tc.status, tc.word, tc.output)
		if f.reason != tc.reason || !strings.HasPrefix(f.message, tc.message) {
			t.Errorf("%s: %s: %s", name, f.reason, f.message)
		}
	}
}
