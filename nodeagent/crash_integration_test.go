//go:build integration

package nodeagent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/container/containertest"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// shortLived makes an agent go through its life quickly.
func shortLived(c *Config) {
	c.PoolTarget = 1
	c.RouteSettle, c.DrainGrace, c.StopGrace = 50*time.Millisecond, 2*time.Second, 2*time.Second
}

// TestEveryCrashIsRecoveredFrom kills an agent at every point of crashPoints and
// with it its pod: every process that it has started. The next agent on the node
// serves, and then the node looks as it does after a life without a crash, while
// that agent runs and once it has stopped (I8). Mounts stay, which a pod's death
// would have taken: recovery must not count on it.
func TestEveryCrashIsRecoveredFrom(t *testing.T) {
	rootFS(t)
	// Of processes that have lost their parent the test becomes the parent.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	// An agent without a supervisor leaves runc's processes of starts that were
	// given up for somebody to wait for: those of tests before.
	endPod(t)
	want := lifeWithoutCrash(t)
	long := os.Getenv("SANFRAN_CRASH_LONG") != ""
	left := 0
	for _, p := range crashPoints {
		if p.long && !long {
			left++
			continue
		}
		t.Run(p.String(), func(t *testing.T) { crashAndRecover(t, p, want) })
	}
	if left > 0 {
		t.Logf("%d of %d points are left to make test-long PART=crashes", left, len(crashPoints))
	}
}

// aftermath is how the node looks with an agent whose pod is parked, and then
// without the agent.
type aftermath struct{ Running, Stopped nodeLooks }

func lifeWithoutCrash(t *testing.T) aftermath {
	dir, cp := newWorkDir(t), newFakeControlPlane(t)
	v := startVictim(t, dir, cp, "", "")
	if at := v.live(cp, crashPod(cp)); at != "the end" {
		t.Fatalf("without an order to die the agent came to: %s\n%s", at, v.output())
	}
	if err := v.wait(); err != nil {
		t.Fatalf("%v\n%s", err, v.output())
	}
	return recoverOn(t, dir, cp)
}

func crashAndRecover(t *testing.T, p crashPoint, want aftermath) {
	dir, cp := newWorkDir(t), newFakeControlPlane(t)
	if p.after != "" {
		crash(t, dir, cp, crashPoint{name: p.after})
	}
	crash(t, dir, cp, p)
	if diff := gocmp.Diff(want, recoverOn(t, dir, cp)); diff != "" {
		t.Errorf("the node looks otherwise than after a life without the crash (-without +with):\n%s", diff)
	}
}

// crash runs an agent until it dies at the point, and ends its pod.
func crash(t *testing.T, dir string, cp *fakeControlPlane, p crashPoint) {
	t.Helper()
	order, runtime, reached := fmt.Sprintf("%s=die@%d", p.name, max(p.nth, 1)), "", "failpoint: "+p.name
	if p.runtime != "" {
		standIn := containertest.NewStandIn(t, cmp.Or(os.Getenv(ociRuntime), "crun"))
		standIn.Misbehave(t, containertest.Fault{After: p.runtime, Then: containertest.KillAgent}, 1)
		order, runtime, reached = "", standIn.Binary, ""
	}
	v := startVictim(t, dir, cp, order, runtime)
	at := v.live(cp, crashPod(cp))
	err := v.wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL || !strings.Contains(v.output(), reached) {
		t.Fatalf("the agent has not died at %q: it came to %s and ended with %v\n%s", p, at, err, v.output())
	}
	endPod(t)
}

// endPod kills what cannot outlive a pod's pid namespace.
func endPod(t *testing.T) {
	t.Helper()
	for {
		pids := children("self")
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			_ = syscall.Kill(n, syscall.SIGKILL) // it may be a zombie
			if _, err := unix.Wait4(n, nil, 0, nil); err != nil && err != unix.ECHILD {
				t.Fatalf("wait for process %d: %v", n, err)
			}
		}
	}
}

// recoverOn starts an agent on the node, sees it serve the pod and park it, and
// stops it.
func recoverOn(t *testing.T, dir string, cp *fakeControlPlane) (l aftermath) {
	t.Helper()
	pod := crashPod(cp)
	cp.update(func() {
		clear(cp.pools)
		cp.statuses, cp.sync = nil, []*agentv1.Assignment{pod}
	})
	a := startAgentIn(t, dir, cp, shortLived)
	cp.wait("the pod", func() bool {
		s := cp.newest(pod).GetState()
		return s == agentv1.PodState_POD_STATE_ACTIVE || s == agentv1.PodState_POD_STATE_PARKED
	})
	if code, body, _ := call(t, "http://"+pod.GetAddress()+":8080/"); code != http.StatusOK || body != "here" {
		t.Errorf("after the crash: %d %q", code, body)
	}
	// The agent itself is asked: what it has told may be of before.
	eventually(t, "the pod to be parked, and a full pool", func() bool {
		pool := a.warmers.Status()[0]
		return a.pods.get(pod.GetPodUid()).status().State == Parked &&
			pool.Warm == 1 && pool.Warming+pool.Leased+pool.Draining == 0
	})
	l.Running = look(t, a.cfg)
	l.Running["files"] = filesOfContainers(l.Running["files"])
	if err := a.stop(); err != nil {
		t.Error(err)
	}
	assertNothingLeft(t, a.cfg)
	l.Stopped = look(t, a.cfg)
	return l
}

// filesOfContainers leaves out what lies there for the next agent: it is written
// when it pleases.
func filesOfContainers(files []string) []string {
	return slices.DeleteFunc(files, func(file string) bool {
		return !strings.Contains(file, " /containers/") && !strings.Contains(file, " /netns") && !strings.Contains(file, " /pods")
	})
}

// crashPod is a pod with everything that a life has steps for: code enough for
// a compile cache, files, and a folder of its own.
func crashPod(cp *fakeControlPlane) *agentv1.Assignment {
	var code bytes.Buffer
	for i := range 1500 {
		fmt.Fprintf(&code, "exports.f%d = function () { return %d * this.x }\n", i, i)
	}
	pod := assignment("crash", "10.245.6.1", cp.bundle(map[string]string{
		"code.js": code.String(), "index.js": "require('./code.js'); module.exports = (req, res) => res.send('here')",
	}))
	pod.Mounts = append(pod.Mounts,
		&agentv1.Mount{Path: "/etc/secret", Source: &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: map[string][]byte{"token": []byte("s3cret")}}}},
		&agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data"}}})
	pod.IdleTimeout = durationpb.New(100 * time.Millisecond)
	return pod
}

// victim is an agent in a process of its own.
type victim struct {
	t    *testing.T
	cmd  *exec.Cmd
	dead chan struct{} // closed when it has ended, after err was set
	err  error
	said *os.File
}

// startVictim starts an agent that is to die by the order, with an OCI runtime of
// its own unless that is empty.
func startVictim(t *testing.T, dir string, cp *fakeControlPlane, order, runtime string) *victim {
	t.Helper()
	said, err := os.CreateTemp(t.TempDir(), "victim")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { said.Close() })
	cp.update(func() { clear(cp.pools); cp.statuses, cp.sync = nil, nil })
	v := &victim{t: t, cmd: exec.Command("/proc/self/exe"), dead: make(chan struct{}), said: said}
	v.cmd.Env = append(os.Environ(), victimDir+"="+dir, victimControlPlane+"="+cp.conn.CanonicalTarget(), victimBPF+"="+bpffs, victimShort+"=1", failpoint.Env+"="+order)
	if runtime != "" {
		v.cmd.Env = append(v.cmd.Env, ociRuntime+"="+runtime)
	}
	v.cmd.Stdout, v.cmd.Stderr = said, said
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		v.err = v.cmd.Wait()
		close(v.dead)
	}()
	t.Cleanup(func() {
		_ = v.cmd.Process.Kill() // it has ended unless the test failed
		<-v.dead
	})
	return v
}

// wait returns how it ended.
func (v *victim) wait() error {
	select {
	case <-v.dead:
		return v.err
	case <-time.After(patience):
		return errors.New("it lives")
	}
}

func (v *victim) output() string {
	data, err := io.ReadAll(io.NewSectionReader(v.said, 0, 1<<20))
	if err != nil {
		v.t.Error(err)
	}
	return string(data)
}

// live leads an agent through its whole life: its pool is filled; a pod is
// assigned, called, parked, woken, withdrawn; another is there when it is told to
// stop. It returns where the agent died, or "the end".
func (v *victim) live(cp *fakeControlPlane, pod *agentv1.Assignment) string {
	state := func(s agentv1.PodState) func() bool {
		return func() bool { return cp.newest(pod).GetState() == s }
	}
	atRest := func() bool {
		p := cp.pools["node24"]
		return p.GetWarm() == 1 && p.GetLeased()+p.GetDraining()+p.GetWarming() == 0
	}
	for _, step := range []struct {
		what string
		do   func()
		done func() bool
	}{
		{"its start", func() {}, atRest},
		{"the assignment", func() { cp.assign(pod) }, state(agentv1.PodState_POD_STATE_ACTIVE)},
		{"parking", func() { v.call(pod) }, state(agentv1.PodState_POD_STATE_PARKED)},
		{"the container's end", func() {}, atRest},
		{"waking", func() { v.call(pod) }, state(agentv1.PodState_POD_STATE_ACTIVE)},
		{"the withdrawal", func() { cp.withdraw(pod, time.Second) }, state(agentv1.PodState_POD_STATE_GONE)},
		{"the last container's end", func() {}, atRest},
		{"another assignment", func() {
			pod = crashPod(cp)
			pod.PodUid, pod.IdleTimeout = "uid-another", durationpb.New(0)
			cp.assign(pod)
		}, state(agentv1.PodState_POD_STATE_ACTIVE)},
		{"its stop", func() { _ = v.cmd.Process.Signal(syscall.SIGTERM) }, func() bool { return false }},
	} {
		step.do()
		if !v.until(cp, step.done) {
			if v.err == nil && step.what == "its stop" {
				return "the end"
			}
			return step.what
		}
	}
	return "nowhere" // the last step ends with the process
}

// until waits for what the control plane hears, and reports false if the agent
// has died.
func (v *victim) until(cp *fakeControlPlane, done func() bool) bool {
	v.t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		cp.mu.Lock()
		ok, changed := done(), cp.changed
		cp.mu.Unlock()
		select {
		case <-v.dead:
			return false
		default:
		}
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-v.dead:
			return false
		case <-timeout.C:
			v.t.Fatalf("the agent gets no further:\n%s", v.output())
		}
	}
}

// call calls the pod; an agent that dies meanwhile does not answer.
func (v *victim) call(pod *agentv1.Assignment) {
	ctx, cancel := context.WithTimeout(v.t.Context(), patience)
	defer cancel()
	go func() {
		select {
		case <-v.dead:
			cancel()
		case <-ctx.Done():
		}
	}()
	a := get(ctx, "http://"+pod.GetAddress()+":8080/")
	select {
	case <-v.dead:
	default:
		if a.err == nil && (a.code != http.StatusOK || a.body != "here") {
			v.t.Errorf("%d %q", a.code, a.body)
		}
	}
}
