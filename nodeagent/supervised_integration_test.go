//go:build integration

package nodeagent

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// supervisedAgent is an agent under its supervisor, both in processes of their own.
type supervisedAgent struct {
	t   *testing.T
	cfg Config
	cp  *fakeControlPlane
	cmd *exec.Cmd
	// pid is the agent's process.
	pid int
}

// startSupervised starts one, with more in its environment.
func startSupervised(t *testing.T, dir string, cp *fakeControlPlane, env ...string) *supervisedAgent {
	t.Helper()
	rootFS(t)
	cfg := nodeConfig(dir)
	if slices.Contains(env, victimShort+"=1") {
		shortLived(&cfg)
	}
	s := &supervisedAgent{t: t, cfg: cfg.withDefaults(), cp: cp, cmd: exec.Command("/proc/self/exe")}
	s.cmd.Env = append(os.Environ(), victimDir+"="+dir, victimControlPlane+"="+cp.conn.CanonicalTarget(), victimBPF+"="+bpffs, victimSupervision+"=supervisor",
		"GORACE=atexit_sleep_ms=0")
	s.cmd.Env = append(s.cmd.Env, env...)
	s.cmd.Stdout, s.cmd.Stderr = t.Output(), t.Output()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
	})
	cp.wait("the agent's hello", func() bool { return len(cp.hellos) == 1 })
	s.pid = s.agent()
	cp.wait("a full pool", func() bool { return cp.pools["node24"].GetWarm() == int32(cfg.PoolTarget) })
	return s
}

// agent finds the agent's process: the supervisor's child that runs this program.
func (s *supervisedAgent) agent() int {
	s.t.Helper()
	for _, pid := range childrenOf(s.t, s.cmd.Process.Pid) {
		own, err := os.Stat("/proc/self/exe")
		if err != nil {
			s.t.Fatal(err)
		}
		if exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && os.SameFile(own, exe) {
			return pid
		}
	}
	s.t.Fatal("the supervisor has no agent")
	return 0
}

func childrenOf(t *testing.T, pid int) (all []int) {
	t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		data, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(data)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, child)
		}
	}
	return all
}

// kill kills the agent's process. meanwhile is called while there is none, or
// hardly; then it waits for the hello of the next, which it returns.
func (s *supervisedAgent) kill(meanwhile func()) *agentv1.Hello {
	s.t.Helper()
	s.cp.mu.Lock()
	before := len(s.cp.hellos)
	s.cp.mu.Unlock()
	if err := syscall.Kill(s.pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	if meanwhile != nil {
		meanwhile()
	}
	var hello *agentv1.Hello
	s.cp.wait("the next process's hello", func() bool {
		if len(s.cp.hellos) > before {
			hello = s.cp.hellos[len(s.cp.hellos)-1]
		}
		return hello != nil
	})
	s.pid = s.agent()
	return hello
}

// settled waits until the agent's file knows so many pods: it is written once a
// second at most, and what is not in it the next process learns from the control
// plane.
func (s *supervisedAgent) settled(pods int) {
	s.t.Helper()
	file := newSnapshot(s.cfg)
	eventually(s.t, "the file of assignments", func() bool {
		state, err := file.read()
		return err == nil && state != nil && len(state.Pods) == pods
	})
}

// stop ends supervisor and agent in order.
func (s *supervisedAgent) stop() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("supervisor and agent ended with: %v", err)
	}
	assertNothingLeft(s.t, s.cfg)
}

// processOf is the first process of the container that serves a pod: the child of
// the supervisor whose host name is the pod's.
func (s *supervisedAgent) processOf(pod *agentv1.Assignment) int {
	s.t.Helper()
	for _, pid := range childrenOf(s.t, s.cmd.Process.Pid) {
		if pid == s.pid {
			continue
		}
		name, err := exec.Command("nsenter", "--uts", "--target", strconv.Itoa(pid), "hostname").Output()
		if err == nil && strings.TrimSpace(string(name)) == pod.GetHostname() {
			return pid
		}
	}
	s.t.Fatalf("no container has the name %s", pod.GetHostname())
	return 0
}

func (s *supervisedAgent) viaData(pod *agentv1.Assignment) answer {
	return get(s.t.Context(), "http://"+s.cfg.dataAddress()+"/", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
}

// who answers by a word of its process's own, and writes one to its log.
const who = `const me = String(Math.random()); module.exports = (req, res) => { console.log('asked'); res.send(me) }`

// TestAnAgentKilledUnderLoad kills the agent's process again and again: no
// container is started anew, no connection to one is lost, and who connects while
// there is no agent is served by the next.
func TestAnAgentKilledUnderLoad(t *testing.T) {
	kills := 5
	if n := os.Getenv("SANFRAN_TEST_KILLS"); n != "" {
		var err error
		if kills, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	dir, cp := newWorkDir(t), newFakeControlPlane(t)
	s := startSupervised(t, dir, cp)
	bundle := cp.bundle(map[string]string{"index.js": who})
	var pods []*agentv1.Assignment
	for i := range 3 {
		pods = append(pods, assignment(fmt.Sprintf("stays-%d", i), fmt.Sprintf("10.245.4.%d", 1+i), bundle))
	}
	// It is parked before most kills.
	parks := assignment("parks", "10.245.4.100", bundle)
	parks.IdleTimeout = durationpb.New(100 * time.Millisecond)
	instances := map[string]*agentv1.PodStatus{}
	for _, pod := range append(pods, parks) {
		cp.assign(pod)
		instances[pod.GetPodUid()] = cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	}
	cp.mu.Lock()
	cp.sync = append(slices.Clone(pods), parks)
	cp.mu.Unlock()

	cp.wait("a full pool", func() bool { return cp.pools["node24"].GetWarm() == 2 })
	ctx, cancel := context.WithCancel(t.Context())
	var load sync.WaitGroup
	var answers atomic.Int64
	words := map[string]string{}
	for _, pod := range pods {
		_, words[pod.GetPodUid()], _ = call(t, "http://"+pod.GetAddress()+":8080/")
		instance := instances[pod.GetPodUid()].GetInstance()
		want := words[pod.GetPodUid()]
		lines := map[string]*line{
			"direct":  openLine(t, pod.GetAddress()+":8080", ""),
			"gateway": openLine(t, instance.GetAddress(), router.HeaderLease+": "+instance.GetLeaseId()+"\r\n"),
		}
		check := func(kind, got string, err error) {
			if ctx.Err() == nil && (err != nil || got != want) {
				t.Errorf("%s, %s: %q %v, want %q", pod.GetPodName(), kind, got, err, want)
				cancel()
			}
			answers.Add(1)
		}
		for kind, l := range lines {
			load.Go(func() {
				defer l.conn.Close()
				for ; ctx.Err() == nil; pause(ctx) {
					got, err := l.ask()
					check(kind, got, err)
				}
			})
		}
		load.Go(func() {
			for ; ctx.Err() == nil; pause(ctx) {
				got := get(ctx, "http://"+pod.GetAddress()+":8080/")
				check("new connections", got.body, got.err)
			}
		})
	}

	var away []time.Duration
	for n := range kills {
		s.settled(len(pods) + 1)
		served := answers.Load()
		hello := s.kill(func() {
			began := time.Now()
			// Whoever comes now waits. The last is refused by the next process.
			var waiting sync.WaitGroup
			for i := range 8 {
				waiting.Go(func() {
					got := answer{}
					if i%2 == 0 {
						got = get(t.Context(), "http://"+parks.GetAddress()+":8080/")
					} else {
						got = s.viaData(parks)
					}
					if got.err != nil || got.code != http.StatusOK {
						t.Errorf("kill %d: a request to the parked pod: %d %q %v", n, got.code, got.body, got.err)
					}
				})
			}
			if got := get(t.Context(), "http://"+s.cfg.dataAddress()+"/"); got.code != http.StatusMisdirectedRequest {
				t.Errorf("kill %d: a request for nobody: %d %v", n, got.code, got.err)
			}
			away = append(away, time.Since(began))
			waiting.Wait()
		})
		for _, told := range hello.GetPods() {
			before := instances[told.GetPodUid()]
			if told.GetPodUid() == parks.GetPodUid() {
				continue
			}
			if told.GetState() != agentv1.PodState_POD_STATE_ACTIVE || told.GetInstance().GetLeaseId() != before.GetInstance().GetLeaseId() ||
				told.GetInstance().GetAddress() != before.GetInstance().GetAddress() || told.GetInstance().GetNonce() != before.GetInstance().GetNonce() ||
				told.GetRestartCount() != 0 || !told.GetStartedAt().AsTime().Equal(before.GetStartedAt().AsTime()) {
				t.Errorf("kill %d: the next process tells of %v, before %v", n, told, before)
			}
		}
		if len(hello.GetPods()) != len(pods)+1 {
			t.Errorf("kill %d: the next process knows %d pods, not %d", n, len(hello.GetPods()), len(pods)+1)
		}
		// The load goes on, and the pod has been parked again: nothing of it is cut.
		cp.waitState(parks, agentv1.PodState_POD_STATE_PARKED)
		cp.wait("a full pool", func() bool { return cp.pools["node24"].GetWarm() == 2 })
		for ctx.Err() == nil && answers.Load() < served+50 {
			pause(ctx)
		}
		if ctx.Err() != nil {
			break
		}
	}
	cancel()
	load.Wait()
	slices.Sort(away)
	t.Logf("%d answers over %d kills; from SIGKILL to the next process's answer: median %v, longest %v", answers.Load(), len(away), away[len(away)/2], away[len(away)-1])
	for _, pod := range pods {
		log, err := os.ReadFile(filepath.Join(s.cfg.Logs.Dir, "default_"+pod.GetPodName()+"_"+pod.GetPodUid(), "0-000000.log"))
		if err != nil {
			t.Error(err)
		}
		// A rest of a frame, which the killed process had begun to read, is shown.
		if n := bytes.Count(log, []byte("asked\n")); n < 10*kills || bytes.Contains(log, []byte{0x1e}) {
			t.Errorf("%s: a log of %d lines, or with a frame's head", pod.GetPodName(), n)
		}
	}
	s.stop()
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// TestWhatHappensWhileThereIsNoAgent: a container dies, another drains, a third
// has written into its volume.
func TestWhatHappensWhileThereIsNoAgent(t *testing.T) {
	dir, cp := newWorkDir(t), newFakeControlPlane(t)
	s := startSupervised(t, dir, cp)
	code := cp.bundle(map[string]string{"index.js": `
		const fs = require('fs')
		module.exports = (req, res) => {
			if (req.path === '/slow') return setTimeout(() => res.send('slow'), 3000)
			try { fs.appendFileSync('/data/log', 'x') } catch {}
			res.send(fs.existsSync('/data/log') ? fs.readFileSync('/data/log', 'utf8') : 'no volume')
		}`})
	dies, drains, writes := assignment("dies", "10.245.5.1", code), assignment("drains", "10.245.5.2", code), assignment("writes", "10.245.5.3", code)
	writes.IdleTimeout = durationpb.New(time.Second)
	writes.Mounts = append(writes.Mounts, &agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data"}}})
	for _, pod := range []*agentv1.Assignment{dies, drains, writes} {
		cp.assign(pod)
		cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	}
	if _, body, _ := call(t, "http://10.245.5.3:8080/"); body != "x" {
		t.Fatalf("the volume: %q", body)
	}
	pid := s.processOf(dies)
	slow := make(chan answer, 1)
	asking := openLine(t, "10.245.5.2:8080", "")
	defer asking.conn.Close()
	if _, err := asking.ask(); err != nil { // it is the container's connection
		t.Fatal(err)
	}
	go func() {
		body, err := asking.askFor("/slow")
		slow <- answer{body: body, err: err}
	}()
	cp.withdraw(drains, 20*time.Second)
	cp.wait("the container to drain", func() bool { return cp.pools["node24"].GetDraining() == 1 })
	cp.mu.Lock()
	cp.sync = []*agentv1.Assignment{dies, writes}
	cp.mu.Unlock()
	hello := s.kill(func() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	if got := <-slow; got.err != nil || got.body != "slow" {
		t.Errorf("the request in the draining container: %q %v", got.body, got.err)
	}
	cp.wait("the drained container to be gone", func() bool { return cp.pools["node24"].GetDraining() == 0 })
	died := cp.waitState(dies, agentv1.PodState_POD_STATE_PARKED)
	if died.GetRestartCount() != 1 || died.GetLastTermination().GetSignal() != int32(syscall.SIGKILL) {
		t.Errorf("the pod whose container died: %v (hello %v)", died, hello)
	}
	if code, body, _ := call(t, "http://10.245.5.1:8080/"); code != http.StatusOK || body != "no volume" {
		t.Errorf("its next request: %d %q", code, body)
	}
	if _, body, _ := call(t, "http://10.245.5.3:8080/"); body != "xx" {
		t.Errorf("the volume in the container that went on: %q", body)
	}
	cp.waitState(writes, agentv1.PodState_POD_STATE_PARKED)
	s.kill(nil)
	if _, body, _ := call(t, "http://10.245.5.3:8080/"); body != "xxx" {
		t.Errorf("the volume after parking and another process: %q", body)
	}
	s.stop()
}
