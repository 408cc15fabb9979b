//go:build integration

package nodeagent

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func TestAContainerThatDiesIsReplaced(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("dies", "10.245.3.9", a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => req.path === '/die' ? process.reallyExit(3) : res.send('alive')"}))
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	if code, _, _ := a.viaData(t, pod, "/die"); code != http.StatusBadGateway {
		t.Errorf("the request that killed it: %d, want 502", code)
	}
	s := a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	if s.GetRestartCount() != 1 {
		t.Errorf("restart count %d, want 1", s.GetRestartCount())
	}
	if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != "alive" {
		t.Errorf("the next request: %d %q", code, body)
	}
	if code, _, _ := a.viaData(t, pod, "/die"); code != http.StatusBadGateway {
		t.Errorf("the request that killed it again: %d, want 502", code)
	}
	if s := a.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonExited || s.GetRestartCount() != 1 {
		t.Errorf("died twice: %v", s)
	}
}

// TestAKilledAgentLeavesNothingForItsNextLife kills an agent that serves, and
// starts it again: it knows its pods, and nothing of before is left (I8).
func TestAKilledAgentLeavesNothingForItsNextLife(t *testing.T) {
	rootFS(t)
	for name, start := range map[string]func(*testing.T, string, *fakeControlPlane) (kill func()){
		"agent": func(t *testing.T, dir string, cp *fakeControlPlane) func() {
			victim := exec.Command("/proc/self/exe")
			victim.Env = append(os.Environ(), victimDir+"="+dir, victimControlPlane+"="+cp.conn.CanonicalTarget(), victimBPF+"="+bpffs)
			victim.Stdout, victim.Stderr = t.Output(), t.Output()
			victim.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := victim.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = victim.Wait() // says that it was killed
			}
		},
		// In a pod the supervisor is the first process.
		"supervisor": func(t *testing.T, dir string, cp *fakeControlPlane) func() {
			s := startSupervised(t, dir, cp)
			return func() {
				if err := s.cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = s.cmd.Wait()
				eventually(t, "the agent to die with its supervisor", func() bool {
					_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", s.pid)) // of a zombie there is none
					return err != nil
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, cp := newWorkDir(t), newFakeControlPlane(t)
			kill := start(t, dir, cp)
			pod := assignment("hello", "10.245.3.13", cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send('here')"}))
			cp.assign(pod)
			before := cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
			cp.wait("a full pool", func() bool { return cp.pools["node24"].GetWarm() == 2 })
			if code, body, _ := call(t, "http://10.245.3.13:8080/"); code != 200 || body != "here" {
				t.Fatalf("%d %q", code, body)
			}
			kill()

			cp.mu.Lock()
			clear(cp.pools)
			cp.sync = []*agentv1.Assignment{pod}
			cp.mu.Unlock()
			a := startAgentIn(t, dir, cp, nil)
			if code, body, _ := call(t, "http://10.245.3.13:8080/"); code != 200 || body != "here" {
				t.Errorf("after the restart: %d %q", code, body)
			}
			if after := cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE); after.GetInstance().GetLeaseId() == before.GetInstance().GetLeaseId() {
				t.Error("the killed agent's lease is still told")
			}
			if err := a.stop(); err != nil {
				t.Fatal(err)
			}
			assertNothingLeft(t, a.cfg)
		})
	}
}

// assertNothingLeft fails if an agent that has stopped left something on the
// node (invariant I8).
func assertNothingLeft(t *testing.T, cfg Config) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, cfg.WorkDir) {
			t.Errorf("left mounted: %s", line)
		}
	}
	for _, dir := range []string{"pods", "netns", "containers/run"} {
		entries, err := os.ReadDir(filepath.Join(cfg.WorkDir, dir))
		if err == nil && len(entries) > 0 {
			t.Errorf("left in %s: %v", dir, entries)
		}
	}
	if entries, err := os.ReadDir(cfg.PinDir); err == nil && len(entries) > 0 {
		t.Errorf("left pinned: %v", entries)
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + cfg.CgroupBase + "/functions/*/cgroup.procs")
	if err != nil || len(groups) > 0 {
		t.Errorf("left control groups: %v %v", groups, err)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		switch name := link.Attrs().Name; name {
		case "lo", "uplink":
		default:
			t.Errorf("left interface %s", name)
		}
	}
	tables, err := exec.CommandContext(t.Context(), "nft", "list", "tables").CombinedOutput()
	if err != nil || strings.Contains(string(tables), "sanfran") {
		t.Errorf("left nft tables: %s %v", tables, err)
	}
}
