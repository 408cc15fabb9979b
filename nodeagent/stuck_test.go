package nodeagent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container/containertest"
	"sanfran.dev/nodeagent/logs"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// sleepingInspector is one that opens with SIGUSR1, as that of Node.js: until
// then connections to its address are refused.
type sleepingInspector struct {
	socket *os.File
	server *httptest.Server
	once   sync.Once

	mu      sync.Mutex
	signals []syscall.Signal
}

func newSleepingInspector(t *testing.T) (_ *sleepingInspector, address string) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := &sleepingInspector{socket: os.NewFile(uintptr(fd), "inspector")}
	t.Cleanup(func() {
		s.socket.Close()
		if s.server != nil {
			s.server.Close()
		}
	})
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return s, fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
}

func (s *sleepingInspector) signalled(c *containertest.Instance, signal syscall.Signal) {
	s.mu.Lock()
	s.signals = append(s.signals, signal)
	s.mu.Unlock()
	s.once.Do(func() {
		listener, err := net.FileListener(s.socket)
		if err = errors.Join(err, unix.Listen(int(s.socket.Fd()), 10)); err != nil {
			panic(err)
		}
		s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
		s.server.Listener.Close()
		s.server.Listener = listener
		s.server.Start()
	})
}

func (s *sleepingInspector) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/json/list" {
		fmt.Fprint(w, `[{"id":"1"}]`)
		return
	}
	upgrader := websocket.Upgrader{}
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for _, line := range []string{
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"7","url":"/function/index.js"}}`,
		`{"method":"Debugger.scriptParsed","params":{"scriptId":"9","url":"/opt/sanfran/worker/server.js"}}`,
		`{"method":"Debugger.paused","params":{"callFrames":[
			{"functionName":"loop","location":{"scriptId":"7","lineNumber":8,"columnNumber":1}},
			{"functionName":"serve","location":{"scriptId":"9","lineNumber":10,"columnNumber":1}}]}}`,
	} {
		_ = conn.WriteMessage(websocket.TextMessage, []byte(line))
	}
	_, _, _ = conn.ReadMessage()
}

func TestWhereAFunctionIsStuck(t *testing.T) {
	inspector, address := newSleepingInspector(t)
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.EventLoopLimit = 200 * time.Millisecond
		ta.inspector, ta.runtime.OnSignal = address, inspector.signalled
	})
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(spec, agentv1.PodState_POD_STATE_ACTIVE)
	ta.viaData(t.Context(), spec, "/print?text=before") // without the end of its line
	wantAnswer(t, ta.viaData(t.Context(), spec, "/stuck"), http.StatusGatewayTimeout, `call (index.js:9); the request may`)

	const message = "the function did not let its event loop run for more than 200ms: an endless or very long synchronous call (index.js:9)"
	const stack = "\n    at loop (/function/index.js:9:2)"
	end := ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED).GetLastTermination()
	if end.GetMessage() != message+stack || end.GetExitCode() != 137 {
		t.Errorf("the owner is told %v", end)
	}
	p := ta.pods.get(spec.GetPodUid())
	if got, want := readLog(t, p, logs.ReadOptions{Previous: true}), "before\nEventLoopBlocked: "+message+stack+"\n"; got != want {
		t.Errorf("the log is %q, want %q", got, want)
	}
	inspector.mu.Lock()
	defer inspector.mu.Unlock()
	if len(inspector.signals) != 1 || inspector.signals[0] != syscall.SIGUSR1 {
		t.Errorf("it got %v, want SIGUSR1 once", inspector.signals)
	}
}

// TestASilentInspectorCostsNothingButTheStack has an inspector that never opens.
func TestASilentInspectorCostsNothingButTheStack(t *testing.T) {
	_, address := newSleepingInspector(t)
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.EventLoopLimit, ta.inspector = 200*time.Millisecond, address
	})
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(spec, agentv1.PodState_POD_STATE_ACTIVE)
	wantAnswer(t, ta.viaData(t.Context(), spec, "/stuck"), http.StatusGatewayTimeout, `synchronous call; the request may`)
	if got := readLog(t, ta.pods.get(spec.GetPodUid()), logs.ReadOptions{Previous: true}); got != "" {
		t.Errorf("the log is %q", got)
	}
}

func TestWhatTheDebuggerCausesIsHiddenOnce(t *testing.T) {
	var written strings.Builder
	o := &output{}
	o.hide("Debugger attached.\n", "Other\n")
	for _, text := range []string{"attached.\n", "oneDebugger attached.\ntwo\n", "Debugger attached.\n", "Debugger attached."} {
		written.Write(o.withoutHidden([]byte(text)))
	}
	if got, want := written.String(), "attached.\nonetwo\nDebugger attached.\nDebugger attached."; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
