package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/container"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

func wantAnswer(t *testing.T, got answer, code int, contains string) {
	t.Helper()
	if got.err != nil || got.code != code || !strings.Contains(got.body, contains) {
		t.Errorf("got %d %q (%v), want %d and %q", got.code, got.body, got.err, code, contains)
	}
}

func TestManyRequestsMakeOneActivation(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello under ") })
	}
	wg.Wait()
	if n := ta.workers.loaded("hello"); n != 1 {
		t.Errorf("%d activations, want 1", n)
	}
}

func TestTheFirstPodOfARevisionIsActivatedAtOnce(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(map[string]string{"index.js": "x"}))
	pod.Mounts = append(pod.Mounts, &agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "d"}}})
	pod.Resources = &agentv1.Resources{MilliCpu: 250, MemoryBytes: 64 << 20}
	s := ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	if s.GetInstance().GetLeaseId() == "" || s.GetInstance().GetNonce() == "" || s.GetInstance().GetAddress() == "" || s.GetStartedAt() == nil {
		t.Errorf("incomplete status %v", s)
	}
	for _, c := range ta.runtime.Live() {
		if len(c.Mounts()) == 0 {
			continue
		}
		targets := map[string]bool{}
		for _, m := range c.Mounts() {
			targets[m.Target] = m.ReadOnly
		}
		for target, readOnly := range map[string]bool{"/function": true, "/data": false, "/etc/resolv.conf": true, "/etc/hosts": true, "/etc/hostname": true} {
			if got, ok := targets[target]; !ok || got != readOnly {
				t.Errorf("%s: mounted %v, read-only %v", target, ok, got)
			}
		}
		if want := (container.Resources{MilliCPU: 250, MemoryBytes: 64 << 20}); c.Resources() != want {
			t.Errorf("limits %+v, want %+v", c.Resources(), want)
		}
	}
}

func TestWaitersThatGiveUpEndTheAttempt(t *testing.T) {
	started, hold := make(chan struct{}, 10), make(chan struct{})
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.PoolTarget = 1 // none is kept warm beside the one the test takes
		ta.runtime.OnStart = func(ctx context.Context, _ container.Config) error {
			select {
			case started <- struct{}{}:
			default:
			}
			select {
			case <-hold:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	<-started
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { ta.viaData(ctx, pod, "/") })
	}
	p := ta.pods.get(pod.GetPodUid())
	eventually(t, "all requests to wait", func() bool { return locked(p, func() bool { return p.waiting == 20 }) })
	cancel()
	wg.Wait()
	eventually(t, "the attempt to end", func() bool { return locked(p, func() bool { return p.waiting == 0 && p.attempt == nil }) })
	if state := p.status().State; state != Parked {
		t.Errorf("the pod is %v, want Parked", state)
	}
	close(hold)
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
}

func locked(p *pod, f func() bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f()
}

// eventually polls for what nothing tells of.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestNoRequestIsRefusedBecauseThePodIsParked(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.IdleTimeout = durationpb.New(2 * time.Millisecond)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 40 {
				wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
				<-time.After(time.Duration(i) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	if n := ta.workers.loaded("hello"); n < 3 {
		t.Errorf("only %d activations: the pod was hardly ever parked", n)
	}
}

func TestARequestInFlightIsNotIdle(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.IdleTimeout = durationpb.New(5 * time.Millisecond)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	got := make(chan answer, 1)
	go func() { got <- ta.viaData(t.Context(), pod, "/block") }()
	<-ta.workers.blocked
	<-time.After(50 * time.Millisecond) // ten times the idle timeout
	if state := ta.pods.get(pod.GetPodUid()).status().State; state != Active {
		t.Errorf("the pod is %v while a request runs", state)
	}
	close(ta.workers.release)
	wantAnswer(t, <-got, 200, "default/hello")
}

func TestFailedPodsAnswerWithTheReason(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("broken", "10.245.0.1", ta.cp.bundle(nil))
	ta.workers.setBroken("broken", true)
	s := ta.assigned(pod, agentv1.PodState_POD_STATE_FAILED)
	if s.GetReason() != "SyntaxError" || s.GetMessage() != "index.js:1: broken\nhere" {
		t.Errorf("reason %q, message %q", s.GetReason(), s.GetMessage())
	}
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), http.StatusBadGateway, "SyntaxError")
	missing := assignment("missing", "10.245.0.2", "sha256:"+strings.Repeat("0", 64))
	if s := ta.assigned(missing, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonBundleFetchFailed {
		t.Errorf("reason %q", s.GetReason())
	}
	other := assignment("other", "10.245.0.3", ta.cp.bundle(nil))
	other.Runtime = "deno"
	if s := ta.assigned(other, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonRuntimeUnknown {
		t.Errorf("reason %q", s.GetReason())
	}
}

func TestAContainerThatDiesCostsItsRequestsOnly(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	wantAnswer(t, ta.viaData(t.Context(), pod, "/die"), http.StatusBadGateway, "exit code 3; the request may have been executed")
	if s := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED); s.GetRestartCount() != 1 {
		t.Errorf("restart count %d", s.GetRestartCount())
	}
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
	wantAnswer(t, ta.viaData(t.Context(), pod, "/die"), http.StatusBadGateway, "exit code 3; the request may have been executed")
	if s := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonExited {
		t.Errorf("reason %q", s.GetReason())
	}
}

func TestCallersAreNotToldWhatAFunctionWrote(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := ta.pods.get(pod.GetPodUid())
	for _, state := range []agentv1.PodState{agentv1.PodState_POD_STATE_PARKED, agentv1.PodState_POD_STATE_FAILED} {
		wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
		locked(p, func() bool { p.current.warm.output.keep([]byte("password=1")); return true })
		ta.viaData(t.Context(), pod, "/die")
		ta.cp.waitState(pod, state)
	}
	if s := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED); !strings.Contains(s.GetMessage(), "password=1") {
		t.Errorf("the owner is told %q, without the last output", s.GetMessage())
	}
	got := ta.viaData(t.Context(), pod, "/")
	wantAnswer(t, got, http.StatusBadGateway, "ended by itself")
	if strings.Contains(got.body, "password") {
		t.Errorf("a caller is told what the function wrote: %s", got.body)
	}
}

func TestTheReasonForNoContainerReachesTheCaller(t *testing.T) {
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.QueueTimeout = 500 * time.Millisecond
		ta.runtime.OnStart = func(context.Context, container.Config) error { return errors.New("cannot allocate memory") }
	})
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	got := ta.viaData(t.Context(), pod, "/")
	wantAnswer(t, got, http.StatusServiceUnavailable, "QueueTimeout")
	wantAnswer(t, got, http.StatusServiceUnavailable, "cannot allocate memory")
}

func TestHeadersBeyondWhatAFunctionTakesAreRefused(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	got := get(t.Context(), ta.data, router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision(), "X-Long", strings.Repeat("x", 2*maxHeaderBytes))
	wantAnswer(t, got, http.StatusRequestHeaderFieldsTooLarge, "")
	many := []string{router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision()}
	for i := range 1000 {
		many = append(many, fmt.Sprintf("X%d", i), "y")
	}
	wantAnswer(t, get(t.Context(), ta.data, many...), http.StatusRequestHeaderFieldsTooLarge, "TooManyHeaders")
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
}

// A gateway may say how long a request waits, within what the agent allows.
func TestARequestWaitsAsLongAsItsGatewaySays(t *testing.T) {
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.QueueTimeout = time.Hour
		ta.runtime.OnStart = func(ctx context.Context, _ container.Config) error {
			<-ctx.Done()
			return ctx.Err()
		}
	})
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	got := get(t.Context(), ta.data, router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision(), router.HeaderWait, "50")
	wantAnswer(t, got, http.StatusServiceUnavailable, "QueueTimeout")
}

func TestTooManyWaiters(t *testing.T) {
	hold := make(chan struct{})
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.QueueLength = 2
		c.QueueTimeout = 200 * time.Millisecond
		ta.runtime.OnStart = func(ctx context.Context, _ container.Config) error {
			select {
			case <-hold:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	p := ta.pods.get(pod.GetPodUid())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			wantAnswer(t, ta.viaData(t.Context(), pod, "/"), http.StatusServiceUnavailable, "QueueTimeout")
		})
	}
	eventually(t, "two to wait", func() bool { return locked(p, func() bool { return p.waiting == 2 }) })
	third := ta.viaData(t.Context(), pod, "/")
	wantAnswer(t, third, http.StatusServiceUnavailable, "QueueFull")
	if third.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	wg.Wait()
	close(hold)
}

func TestEpochs(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.Epoch = &agentv1.Epoch{Generation: 2, Counter: 5}
	first := ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)

	stale := proto.Clone(pod).(*agentv1.Assignment)
	stale.Epoch = &agentv1.Epoch{Generation: 1, Counter: 9}
	ta.cp.assign(stale)
	ta.cp.withdraw(stale, 0)
	renewed := proto.Clone(pod).(*agentv1.Assignment)
	renewed.Epoch = &agentv1.Epoch{Generation: 3, Counter: 1}
	renewed.StartParked = true
	ta.cp.assign(renewed)
	ta.cp.wait("the renewed epoch", func() bool {
		last := ta.cp.statuses[len(ta.cp.statuses)-1]
		return last.GetEpoch().GetGeneration() == 3
	})
	if s := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE); s.GetInstance().GetLeaseId() != first.GetInstance().GetLeaseId() {
		t.Error("the same work under a newer epoch replaced the container")
	}

	changed := proto.Clone(renewed).(*agentv1.Assignment)
	changed.Epoch.Counter++
	changed.Env = []*agentv1.EnvVar{{Name: "A", Value: "b"}}
	changed.StartParked = false
	ta.cp.assign(changed)
	ta.cp.wait("another container", func() bool {
		last := ta.cp.statuses[len(ta.cp.statuses)-1]
		return last.GetState() == agentv1.PodState_POD_STATE_ACTIVE && last.GetInstance().GetLeaseId() != first.GetInstance().GetLeaseId()
	})

	ta.cp.withdraw(changed, time.Second)
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	ta.cp.withdraw(stale, 0) // late, both: older than the withdrawal
	ta.cp.assign(renewed)
	fresh := assignment("fresh", "10.245.0.2", ta.cp.bundle(nil))
	ta.assigned(fresh, agentv1.PodState_POD_STATE_ACTIVE)
	if ta.pods.get(pod.GetPodUid()) != nil {
		t.Error("a withdrawn pod came back under an older epoch")
	}
}

func TestSyncDropsWhatIsNotInIt(t *testing.T) {
	ta := startTestAgent(t, nil)
	stays, goes := assignment("stays", "10.245.0.1", ta.cp.bundle(nil)), assignment("goes", "10.245.0.2", ta.cp.bundle(nil))
	before := ta.assigned(stays, agentv1.PodState_POD_STATE_ACTIVE)
	ta.assigned(goes, agentv1.PodState_POD_STATE_ACTIVE)
	ta.cp.disconnect(stays)
	ta.cp.wait("a second hello", func() bool { return len(ta.cp.hellos) == 2 })
	if held := ta.cp.hellos[1].GetPods(); len(held) != 2 {
		t.Errorf("the second hello names %d pods, want 2", len(held))
	}
	ta.cp.waitState(goes, agentv1.PodState_POD_STATE_GONE)
	if ta.pods.get(goes.GetPodUid()) != nil {
		t.Error("the pod that the control plane does not know is still here")
	}
	if s := ta.pods.get(stays.GetPodUid()).status(); s.Instance == nil || s.Instance.lease != before.GetInstance().GetLeaseId() {
		t.Error("the pod that stays lost its container")
	}
	wantAnswer(t, ta.viaData(t.Context(), goes, "/"), http.StatusMisdirectedRequest, "")
}

func TestRequestsGoOnWithoutTheControlPlane(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.HandoverGrace = 10 * time.Millisecond })
	warm, cold := assignment("warm", "10.245.0.1", ta.cp.bundle(nil)), assignment("cold", "10.245.0.2", ta.cp.bundle(nil))
	cold.StartParked = true
	ta.assigned(warm, agentv1.PodState_POD_STATE_ACTIVE)
	ta.assigned(cold, agentv1.PodState_POD_STATE_PARKED)
	ta.cp.server.Stop()
	wantAnswer(t, ta.viaData(t.Context(), warm, "/"), 200, "default/warm")
	wantAnswer(t, ta.viaData(t.Context(), cold, "/"), 200, "default/cold")
	if err := ta.Ready(t.Context()); err != nil {
		t.Errorf("not ready without the control plane: %v", err)
	}
}

func TestWithdrawalLetsRequestsFinish(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	got := make(chan answer, 1)
	go func() { got <- ta.viaData(t.Context(), pod, "/block") }()
	<-ta.workers.blocked
	ta.cp.withdraw(pod, 10*time.Second)
	eventually(t, "the withdrawal", func() bool { return ta.pods.get(pod.GetPodUid()) == nil })
	refused := ta.viaData(t.Context(), pod, "/")
	wantAnswer(t, refused, http.StatusMisdirectedRequest, "")
	if refused.header.Get(router.HeaderRefused) != router.AgentNonce {
		t.Errorf("refused with %q", refused.header.Get(router.HeaderRefused))
	}
	close(ta.workers.release)
	wantAnswer(t, <-got, 200, "default/hello")
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
}

func TestStopDoesNotWaitForAWithdrawnPodsLongGrace(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.StopGrace = 50 * time.Millisecond })
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	s := ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		get(t.Context(), "http://"+s.GetInstance().GetAddress()+"/block", router.HeaderLease, s.GetInstance().GetLeaseId())
	}()
	<-ta.workers.blocked
	p := ta.pods.get(pod.GetPodUid())
	ta.cp.withdraw(pod, time.Hour)
	eventually(t, "the withdrawal", func() bool { return p.status().Withdrawn })
	stopped := make(chan struct{})
	go func() { defer close(stopped); ta.stop() }()
	select {
	case <-stopped:
	case <-time.After(patience / 2): // the client itself gives up after patience
		t.Error("the agent waits for a pod's own grace of an hour")
		close(ta.workers.release)
	}
	<-stopped
	<-answered
}

func TestAStoppingAgentsContainersRefuseUntilRoutersKnow(t *testing.T) {
	const settle = 300 * time.Millisecond
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.RouteSettle = settle })
	ta.assigned(assignment("hello", "10.245.0.1", ta.cp.bundle(nil)), agentv1.PodState_POD_STATE_ACTIVE)
	begun := time.Now()
	ta.stop()
	if took := time.Since(begun); took < settle {
		t.Errorf("the container is gone after %v, before routers know", took)
	}
}

func TestVolumesStayWhileAContainerHasThem(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.RouteSettle = time.Hour })
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.Mounts = append(pod.Mounts, &agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "d"}}})
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := ta.pods.get(pod.GetPodUid())
	var last *instance
	locked(p, func() bool { last = p.current; return true })
	ta.cp.withdraw(pod, time.Minute)
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	if _, err := os.Stat(p.dir); err != nil {
		t.Errorf("the pod's folder while its container lives: %v", err)
	}
	if err := last.warm.container.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod's folder to be removed", func() bool {
		_, err := os.Stat(p.dir)
		return errors.Is(err, fs.ErrNotExist)
	})
}

func TestRenewedFilesReachTheRunningContainer(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	files := func(content map[string][]byte) *agentv1.Mount {
		return &agentv1.Mount{Path: "/secret", Source: &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: content}}}
	}
	pod.Mounts = append(pod.Mounts, files(map[string][]byte{"token": []byte("first"), "old/file": nil}))
	before := ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	renewed := proto.Clone(pod).(*agentv1.Assignment)
	renewed.Mounts[1] = files(map[string][]byte{"token": []byte("second"), "new/file": []byte("here")})
	ta.cp.assign(renewed)

	source := filepath.Join(ta.pods.get(pod.GetPodUid()).dir, "files-1")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return err.Error()
		}
		return string(data)
	}
	eventually(t, "the new files", func() bool {
		_, err := os.Stat(filepath.Join(source, "old/file"))
		return read("token") == "second" && read("new/file") == "here" && errors.Is(err, fs.ErrNotExist)
	})
	if s := ta.pods.get(pod.GetPodUid()).status(); s.Instance == nil || s.Instance.lease != before.GetInstance().GetLeaseId() {
		t.Error("renewed files replaced the container")
	}
}

func TestARestartWithoutTheControlPlaneKnowsItsPods(t *testing.T) {
	dir := t.TempDir()
	first := startTestAgent(t, func(_ *testAgent, c *Config) { c.WorkDir = dir })
	stays, goes := assignment("stays", "10.245.0.1", first.cp.bundle(nil)), assignment("goes", "10.245.0.2", first.cp.bundle(nil))
	first.assigned(stays, agentv1.PodState_POD_STATE_ACTIVE)
	first.assigned(goes, agentv1.PodState_POD_STATE_ACTIVE)
	first.cp.withdraw(goes, 0)
	first.cp.waitState(goes, agentv1.PodState_POD_STATE_GONE)
	eventually(t, "the routes to be kept", func() bool {
		_, err := os.Stat(filepath.Join(dir, "routes"))
		return err == nil
	})
	first.stop()

	second := startTestAgent(t, func(ta *testAgent, c *Config) { c.WorkDir, ta.offline = dir, true })
	eventually(t, "readiness", func() bool { return second.Ready(t.Context()) == nil })
	p := second.pods.get(stays.GetPodUid())
	if p == nil {
		t.Fatal("the pod is forgotten")
	}
	eventually(t, "the pod to be prepared", func() bool { return p.status().State == Parked })
	wantAnswer(t, second.viaData(t.Context(), stays, "/"), 200, "default/stays")
	wantAnswer(t, second.viaData(t.Context(), goes, "/"), http.StatusMisdirectedRequest, "")
	if info, err := os.Stat(filepath.Join(dir, "assignments")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of assignments: %v, %v", info.Mode(), err)
	}
}

func TestTheSnapshotIsWholeWhoeverSavesIt(t *testing.T) {
	var logged strings.Builder
	ta := startTestAgent(t, func(_ *testAgent, c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelError}))
	})
	for i := range 20 {
		pod := assignment(fmt.Sprint("hello-", i), fmt.Sprint("10.245.0.", i+1), ta.cp.bundle(nil))
		pod.StartParked = true
		ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				ta.snapshot.save(ta.Agent)
			}
		})
	}
	wg.Wait()
	if state, err := ta.snapshot.read(); err != nil || len(state.Pods) != 20 {
		t.Errorf("kept are %+v, %v", state, err)
	}
	ta.stop()
	if logged.Len() > 0 {
		t.Error(logged.String())
	}
}

func TestAnAssignmentThatCannotBeTakenOnIsReported(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "no address", ta.cp.bundle(nil))
	if s := ta.assigned(pod, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonAssignmentRefused {
		t.Errorf("reason %q", s.GetReason())
	}
}

func TestMetricsTellOfPodsAndContainers(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
	eventually(t, "readiness", func() bool { return ta.Ready(t.Context()) == nil })
	server := httptest.NewServer(ta.Handler())
	defer server.Close()
	wantAnswer(t, get(t.Context(), server.URL+"/readyz"), 200, "ok")
	got := get(t.Context(), server.URL+"/metrics")
	for _, want := range []string{`sanfran_agent_pods{state="Active"} 1`, `sanfran_agent_containers{runtime="node24",state="leased"} 1`, "sanfran_agent_control_plane_connected 1", "sanfran_agent_activation_load_seconds_count 1"} {
		wantAnswer(t, got, 200, want)
	}
}
