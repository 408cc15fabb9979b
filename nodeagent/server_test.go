package nodeagent

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

func TestAServerIsNeverParkedAndReplacedWhenItEnds(t *testing.T) {
	ta := startTestAgent(t, nil)
	server := assignment("server", "10.245.0.1", ta.cp.bundle(nil))
	server.Command, server.WorkingDir = []string{"node", "server.js"}, "/function/app"
	server.IdleTimeout = durationpb.New(time.Millisecond)
	s := ta.assigned(server, agentv1.PodState_POD_STATE_ACTIVE)
	if !s.GetStays() {
		t.Error("the control plane does not hear that the pod stays")
	}
	ta.workers.mu.Lock()
	command, folder := ta.workers.commands["server"], ta.workers.folders["server"]
	ta.workers.mu.Unlock()
	if diff := cmp.Diff([]string{"node", "server.js"}, command); diff != "" || folder != "/function/app" {
		t.Errorf("the worker was told to run %q in %q", command, folder)
	}
	// A handler that began later has been parked meanwhile.
	handler := assignment("handler", "10.245.0.2", ta.cp.bundle(nil))
	handler.IdleTimeout = durationpb.New(time.Millisecond)
	ta.assigned(handler, agentv1.PodState_POD_STATE_PARKED)
	if state := ta.pods.get(server.GetPodUid()).status().State; state != Active {
		t.Errorf("the server is %v, want Active", state)
	}

	// Nobody asks for it, and it is there again.
	first := s.GetInstance().GetLeaseId()
	ta.viaData(t.Context(), server, "/die")
	ta.cp.wait("another container of the server", func() bool {
		newest := ta.cp.newest(server)
		return newest.GetState() == agentv1.PodState_POD_STATE_ACTIVE && newest.GetInstance().GetLeaseId() != first
	})
	if n := ta.workers.loaded("server"); n != 2 {
		t.Errorf("%d activations, want 2", n)
	}
}

func TestAServerThatHasOptedInIsParked(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("server", "10.245.0.1", ta.cp.bundle(nil))
	pod.Command, pod.ParkServer = []string{"node", "server.js"}, true
	pod.IdleTimeout = durationpb.New(time.Millisecond)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/server under ")
}

func TestAServerThatStaysDoesNotBeginParkedAfterARestart(t *testing.T) {
	ta := startTestAgent(t, nil)
	stays := assignment("server", "10.245.0.1", ta.cp.bundle(nil))
	stays.Command = []string{"node", "server.js"}
	ta.assigned(stays, agentv1.PodState_POD_STATE_ACTIVE)
	ta.assigned(assignment("handler", "10.245.0.2", ta.cp.bundle(nil)), agentv1.PodState_POD_STATE_ACTIVE)
	state, _ := ta.pods.keep()
	for _, k := range state.Pods {
		if want := k.Assignment.Function == "handler"; k.Proved != want {
			t.Errorf("%s may begin parked: %v, want %v", k.Assignment.Function, k.Proved, want)
		}
	}
}

func TestCommandsAreBounded(t *testing.T) {
	for name, change := range map[string]func(*Assignment){
		"many words":          func(a *Assignment) { a.Command = strings.Split(strings.Repeat("a ", maxCommandWords), " ") },
		"long words":          func(a *Assignment) { a.Command = []string{"node", strings.Repeat("a", maxCommandBytes)} },
		"a NUL":               func(a *Assignment) { a.Command = []string{"node", "a\x00b"} },
		"an empty program":    func(a *Assignment) { a.Command = []string{"", "a"} },
		"a relative folder":   func(a *Assignment) { a.WorkingDir = "app" },
		"a folder with dots":  func(a *Assignment) { a.WorkingDir = "/function/../etc" },
		"a folder with a NUL": func(a *Assignment) { a.WorkingDir = "/a\x00b" },
	} {
		a := assignmentOf(assignment("hello", "10.245.0.1", "sha256:"+strings.Repeat("0", 64)))
		if err := a.validate(); err != nil {
			t.Fatal(err)
		}
		change(a)
		if err := a.validate(); err == nil {
			t.Errorf("%s: not refused", name)
		}
	}
}

// An upgrade wakes a parked pod, and keeps it active as long as it is open.
func TestAnUpgradeReachesAParkedPodAndIsActivity(t *testing.T) {
	ta := startTestAgent(t, nil)
	pod := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	pod.IdleTimeout = durationpb.New(time.Millisecond)
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)

	conn, err := net.Dial("tcp", strings.TrimPrefix(ta.data, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n%s: %s\r\n%s: %s\r\n\r\nearly ",
		router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != "echo" {
		t.Fatalf("got %+v, %v", res, err)
	}
	defer res.Body.Close()
	for _, want := range []string{"early hello\n", "hello\n", "hello\n"} {
		if _, err := fmt.Fprint(conn, "hello\n"); err != nil {
			t.Fatal(err)
		}
		if line, err := in.ReadString('\n'); err != nil || line != want {
			t.Fatalf("got %q, %v, want %q", line, err, want)
		}
	}
	p := ta.pods.get(pod.GetPodUid())
	if idle := locked(p, func() bool { return p.current == nil || p.current.usage.idleFor(time.Now()) >= 0 }); idle {
		t.Error("an open upgrade is not activity")
	}
	conn.Close()
	ta.cp.waitState(pod, agentv1.PodState_POD_STATE_PARKED)
}
