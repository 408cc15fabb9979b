//go:build integration

package nodeagent

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

func rootFS(t testing.TB) {
	t.Helper()
	if os.Getenv("SANFRAN_ROOTFS") == "" {
		t.Fatal("SANFRAN_ROOTFS does not name a Node.js root filesystem: make one with `go run ./deploy/images --rootfs`")
	}
}

// realAgent is a whole agent on the node that these tests have to themselves.
type realAgent struct {
	*Agent
	cp   *fakeControlPlane
	stop func() error
}

func startAgent(t testing.TB, adapt func(*Config)) *realAgent {
	t.Helper()
	return startAgentIn(t, newWorkDir(t), newFakeControlPlane(t), adapt)
}

func newWorkDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sanfran-agent-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.RemoveAll(dir)
		// The base of the containers' control groups is the test's own.
		for _, inner := range []string{"/functions", ""} {
			groups, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(dir) + inner)
			if err != nil {
				t.Error(err)
			}
			for _, group := range groups {
				if err := os.Remove(group); err != nil {
					t.Errorf("left in a control group: %v", err)
				}
			}
		}
	})
	return dir
}

// ociRuntime is the environment variable that names another OCI runtime for these
// tests than agents take by themselves.
const ociRuntime = "SANFRAN_OCI_RUNTIME"

func nodeConfig(dir string) Config {
	return Config{
		NodeName: "node-a", NodeIP: netip.MustParseAddr(nodeIP), Runtimes: map[string]string{"node24": os.Getenv("SANFRAN_ROOTFS")},
		WorkDir: dir, PinDir: filepath.Join(bpffs, "agent"), CgroupBase: "/" + filepath.Base(dir), OCIRuntime: os.Getenv(ociRuntime),
		PoolTarget: 2, EndpointSettle: 50 * time.Millisecond,
	}
}

func startAgentIn(t testing.TB, dir string, cp *fakeControlPlane, adapt func(*Config)) *realAgent {
	t.Helper()
	rootFS(t)
	cfg := nodeConfig(dir)
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if adapt != nil {
		adapt(&cfg)
	}
	a, err := New(cfg, cp.conn)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	r := &realAgent{Agent: a, cp: cp, stop: func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the agent ended with: %v", err)
		}
	})
	cp.wait("warm containers", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the agent ended: %v", err)
		default:
		}
		return cp.pools["node24"].GetWarm() >= int32(cfg.PoolTarget)
	})
	if err := a.Ready(t.Context()); err != nil {
		t.Fatalf("connected and warm, but: %v", err)
	}
	return r
}

func call(t testing.TB, url string, header ...string) (int, string, http.Header) {
	t.Helper()
	a := get(t.Context(), url, header...)
	if a.err != nil {
		t.Fatal(a.err)
	}
	return a.code, a.body, a.header
}

// beyondClient calls from beyond the node, on a new connection for each request.
var beyondClient = &http.Client{Transport: &http.Transport{DialContext: dialWorld, DisableKeepAlives: true}, Timeout: patience}

func (a *realAgent) viaDataAnswer(t testing.TB, pod *agentv1.Assignment) answer {
	return get(t.Context(), "http://"+a.cfg.dataAddress()+"/", router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
}

// viaData calls a pod as a gateway does.
func (a *realAgent) viaData(t testing.TB, pod *agentv1.Assignment, path string) (int, string, http.Header) {
	t.Helper()
	return call(t, "http://"+a.cfg.dataAddress()+path, router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
}

func TestHelloIsServedParkedAndWoken(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("hello", "10.245.3.7", a.cp.bundle(map[string]string{"index.js": "module.exports = (req, res) => res.send('Hello ' + req.query.name)"}))
	pod.IdleTimeout = durationpb.New(time.Second)
	a.cp.assign(pod)
	active := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)

	if code, body, _ := a.viaData(t, pod, "/?name=Vik"); code != 200 || body != "Hello Vik" {
		t.Fatalf("through the data listener: %d %q", code, body)
	}
	if code, body, _ := call(t, "http://10.245.3.7:8080/?name=Vik"); code != 200 || body != "Hello Vik" {
		t.Fatalf("through the pod's address: %d %q", code, body)
	}
	if code, body, _ := call(t, "http://"+active.GetInstance().GetAddress()+"/?name=Vik", router.HeaderLease, active.GetInstance().GetLeaseId()); code != 200 || body != "Hello Vik" {
		t.Fatalf("straight to the container: %d %q", code, body)
	}
	code, _, header := call(t, "http://"+active.GetInstance().GetAddress()+"/?name=Vik", router.HeaderLease, "another")
	if code != http.StatusMisdirectedRequest || header.Get(router.HeaderRefused) != active.GetInstance().GetNonce() {
		t.Fatalf("with another's lease: %d, refused with %q", code, header.Get(router.HeaderRefused))
	}

	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	if code, body, header := call(t, "http://10.245.3.7:8080/?name=Vik"); code != 200 || body != "Hello Vik" {
		t.Fatalf("parked, through the pod's address: %d %q %v", code, body, header)
	}
	again := a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	if again.GetInstance().GetLeaseId() == active.GetInstance().GetLeaseId() || again.GetRestartCount() != 0 {
		t.Errorf("woken with the old lease or a restart: %v", again)
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	if code, body, _ := a.viaData(t, pod, "/?name=Vik"); code != 200 || body != "Hello Vik" {
		t.Fatalf("parked, through the data listener: %d %q", code, body)
	}

	a.cp.withdraw(pod, time.Second)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	if code, _, header := a.viaData(t, pod, "/"); code != http.StatusMisdirectedRequest || header.Get(router.HeaderRefused) != router.AgentNonce {
		t.Errorf("withdrawn: %d %v", code, header)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, a.cfg)
}

func TestCodeThatDoesNotLoadIsNeverReady(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("broken", "10.245.3.8", a.cp.bundle(map[string]string{"index.js": "module.exports = (req res) => 1"}))
	a.cp.assign(pod)
	s := a.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED)
	if s.GetReason() != "SyntaxError" || !strings.Contains(s.GetMessage(), "index.js:1") {
		t.Errorf("reason %q, message %q", s.GetReason(), s.GetMessage())
	}
	if code, body, _ := a.viaData(t, pod, "/"); code != http.StatusBadGateway || !strings.Contains(body, "SyntaxError") {
		t.Errorf("a request gets %d %q", code, body)
	}
}

// TestPodAddressFromBeyondTheNode calls a pod's address as another node does:
// parked it reaches the agent, active the container itself, unassigned nobody.
func TestPodAddressFromBeyondTheNode(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("hello", "10.245.3.11", a.cp.bundle(map[string]string{
		"index.js": "module.exports = (req, res) => res.send(`${req.socket.localAddress} from ${req.socket.remoteAddress}`)"}))
	pod.StartParked = true
	pod.IdleTimeout = durationpb.New(0)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	ask := func(url string) string {
		t.Helper()
		res, err := beyondClient.Get(url)
		if err != nil {
			return err.Error()
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%d %q %v", res.StatusCode, body, err)
		}
		return string(body)
	}
	if got := ask("http://10.245.3.11:8080/"); got != nodeIP+" from 192.0.2.1" {
		t.Errorf("parked: %q, want the agent to have called the container for the client", got)
	}
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	for _, port := range []string{"8080", "80"} {
		if got := ask("http://10.245.3.11:" + port + "/"); got != "10.245.3.11 from 192.0.2.1" {
			t.Errorf("active, port %s: %q, want the container to be called directly", port, got)
		}
	}
	if got := ask("http://10.245.3.12:8080/"); !strings.Contains(got, "refused") {
		t.Errorf("an address of nobody: %q, want a refused connection", got)
	}
}

func TestVolumesEnvironmentAndDNS(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("volumes", "10.245.3.10", a.cp.bundle(map[string]string{"index.js": `
		const fs = require("fs")
		module.exports = (req, res) => {
			let wrote = 'no'
			try { fs.appendFileSync('/data/log', 'x'); wrote = fs.readFileSync('/data/log', 'utf8') } catch (e) { wrote = e.code }
			let ro = 'writable'
			try { fs.writeFileSync('/function/x', '') } catch (e) { ro = e.code }
			res.json({ secret: fs.readFileSync('/etc/secret/nested/token', 'utf8'), resolv: fs.readFileSync('/etc/resolv.conf', 'utf8'),
				hostname: fs.readFileSync("/etc/hostname", "utf8").trim(), env: process.env.GREETING, wrote, ro })
		}`}))
	pod.IdleTimeout = durationpb.New(time.Second)
	pod.Mounts = append(pod.Mounts,
		&agentv1.Mount{Path: "/etc/secret", Source: &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: map[string][]byte{"nested/token": []byte("s3cret")}}}},
		&agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data"}}})
	pod.Env = []*agentv1.EnvVar{{Name: "GREETING", Value: "old"}, {Name: "GREETING", Value: "moin"}}
	pod.Dns = &agentv1.Dns{Nameservers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}}
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	for _, wrote := range []string{"x", "xx"} {
		want := `{"secret":"s3cret","resolv":"nameserver 10.96.0.10\nsearch default.svc.cluster.local\noptions ndots:5\n","hostname":"volumes","env":"moin","wrote":"` + wrote + `","ro":"EROFS"}`
		if code, body, _ := a.viaData(t, pod, "/"); code != 200 || body != want {
			t.Errorf("%d\n got %s\nwant %s", code, body, want)
		}
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
	}
}
