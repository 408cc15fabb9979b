package nodeagent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// TestClientsDoNotFillTheAgent with connections on which they say nothing, and do not
// keep others from it, nor routers.
func TestClientsDoNotFillTheAgent(t *testing.T) {
	const most = 4
	ta := startTestAgent(t, func(_ *testAgent, cfg *Config) { cfg.ClientConnections = most })
	pod := assignment("hello", "127.0.0.1", ta.cp.bundle(nil))
	pod.StartParked = true
	ta.assigned(pod, agentv1.PodState_POD_STATE_PARKED)
	for url, most := range map[string]int{ta.pod: most, ta.data: 2 * most} {
		var conns []net.Conn
		for range 3 * most {
			conn, _ := dial(t, url)
			_ = conn.SetDeadline(time.Now().Add(patience))
			conns = append(conns, conn)
		}
		for _, conn := range conns[:2*most] {
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
				t.Fatalf("one too many of %s: %v", url, err)
			}
		}
	}
	wantAnswer(t, get(t.Context(), ta.pod+"/"), 200, "default/hello")
	wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
	eventually(t, "all to be counted", func() bool {
		text := httptest.NewRecorder()
		ta.Metrics().ServeHTTP(text, httptest.NewRequest("GET", "/metrics", nil))
		for listener, most := range map[string]int{"clients": most, "routers": 2 * most} {
			// The one more that was served has ended.
			open := fmt.Sprintf("sanfran_agent_connections{listener=%q} %d\n", listener, most-1)
			closed := fmt.Sprintf("sanfran_agent_connections_closed_total{listener=%q,reason=\"idle\"} %d\n", listener, 2*most+1)
			if !strings.Contains(text.Body.String(), open) || !strings.Contains(text.Body.String(), closed) {
				return false
			}
		}
		return true
	})
}
