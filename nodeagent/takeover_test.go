package nodeagent

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// TestAQueueOfADeadContainerIsTakenOver has a worker that accepts nothing die with
// requests in its socket's queue: those at the pod's address are served by the next
// container, those at the container's port are refused in the name of its lease (I2).
func TestAQueueOfADeadContainerIsTakenOver(t *testing.T) {
	ta := startTestAgent(t, func(ta *testAgent, _ *Config) { ta.sockets = openPodSocket })
	pod := assignment("hello", "127.0.0.7", ta.cp.bundle(nil))
	active := ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE).GetInstance()
	_, port, err := net.SplitHostPort(active.GetAddress())
	if err != nil {
		t.Fatal(err)
	}
	atPod := net.JoinHostPort(pod.GetAddress(), port)
	lease := router.HeaderLease + ": " + active.GetLeaseId() + "\r\n"
	dying := openLine(t, active.GetAddress(), lease)
	defer dying.conn.Close()
	if _, err := dying.ask(); err != nil {
		t.Fatal(err)
	}

	ta.workers.deaf.Store(true)
	queue := func(n int) func() bool { return func() bool { return queued(t, ta.Agent, pod) == n } }
	lost := openLine(t, atPod, "")
	defer lost.conn.Close()
	eventually(t, "a deaf worker's last connection", queue(0))
	const each = 40
	var byAddress, byPort []*line
	for range each {
		byAddress, byPort = append(byAddress, openLine(t, atPod, "")), append(byPort, openLine(t, active.GetAddress(), lease))
	}
	answers := wantTakenOver(t, byAddress, byPort, active.GetNonce(), func(_ int, body string) bool { return body != "" })
	eventually(t, "all connections to wait in the queue", queue(2*each))
	ta.workers.deaf.Store(false) // the next one hears
	if _, err := dying.askFor("/die"); err == nil {
		t.Error("a container that dies has answered")
	}
	answers.Wait()
	if again := ta.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE); again.GetInstance().GetLeaseId() == active.GetLeaseId() || ta.workers.loaded("hello") != 2 {
		t.Errorf("served by %v, want one other container than %v", again.GetInstance(), active)
	}
}

// queued is how many connections wait in the queue of the pod's container.
func queued(t *testing.T, a *Agent, pod *agentv1.Assignment) int {
	t.Helper()
	p := a.pods.get(pod.GetPodUid())
	p.mu.Lock()
	defer p.mu.Unlock()
	// Of a listening socket Unacked is the length of its queue, see tcp(7).
	info, err := unix.GetsockoptTCPInfo(int(p.current.warm.socket.File().Fd()), unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Unacked)
}

// wantTakenOver sends a request, with its number as n, over each connection, and
// wants those by the pod's address served and those by the port refused with the
// nonce. The caller waits for its end.
func wantTakenOver(t *testing.T, byAddress, byPort []*line, nonce string, served func(n int, body string) bool) *sync.WaitGroup {
	var answers sync.WaitGroup
	for n, l := range byAddress {
		answers.Go(func() {
			defer l.conn.Close()
			if body, err := l.askFor(fmt.Sprintf("/?n=%d", n)); err != nil || !served(n, body) {
				t.Errorf("by the pod's address, request %d: %q %v, want it served by the next container", n, body, err)
			}
		})
	}
	for n, l := range byPort {
		answers.Go(func() {
			defer l.conn.Close()
			res, err := l.exchange("/")
			if err != nil {
				t.Errorf("by the port, request %d: %v, want it refused", n, err)
				return
			}
			defer res.Body.Close()
			if got := res.Header.Get(router.HeaderRefused); res.StatusCode != http.StatusMisdirectedRequest || got != nonce || !res.Close {
				t.Errorf("by the port, request %d: %d, refused with %q, closed %t; want 421 with %q, closed", n, res.StatusCode, got, res.Close, nonce)
			}
		})
	}
	return &answers
}

// line is one connection, over which requests go one after the other until it is
// closed. It is never opened again.
type line struct {
	conn   net.Conn
	in     *bufio.Reader
	header string
}

func openLine(t *testing.T, address, header string) *line {
	t.Helper()
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	return &line{conn: conn, in: bufio.NewReader(conn), header: header}
}

func (l *line) ask() (string, error) { return l.askFor("/") }

func (l *line) askFor(path string) (string, error) {
	res, err := l.exchange(path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return string(body), err
}

// exchange sends a request and returns the answer, whose body the caller closes.
func (l *line) exchange(path string) (*http.Response, error) {
	if err := l.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(l.conn, "GET %s HTTP/1.1\r\nHost: test\r\n%s\r\n", path, l.header); err != nil {
		return nil, err
	}
	return http.ReadResponse(l.in, nil)
}
