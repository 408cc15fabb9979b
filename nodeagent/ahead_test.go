package nodeagent

import (
	"testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func TestAColdRequestFindsAConnection(t *testing.T) {
	ta := startTestAgent(t, nil)
	for i, tc := range []struct {
		name    string
		command []string
		server  bool
		ahead   bool
	}{
		{name: "handler", ahead: true},
		{name: "command", command: []string{"node", "server.js"}},
		{name: "server", server: true},
	} {
		ta.workers.setServer(tc.server)
		spec := assignment(tc.name, "10.245.0."+string(rune('1'+i)), ta.cp.bundle(nil))
		spec.Command, spec.StartParked = tc.command, true
		ta.assigned(spec, agentv1.PodState_POD_STATE_PARKED)
		got := ta.viaData(t.Context(), spec, "/connection")
		ta.mu.Lock()
		ahead := ta.opened[got.body]
		ta.mu.Unlock()
		if got.err != nil || got.code != 200 || ahead != tc.ahead {
			t.Errorf("%s: %d %q %v; over a connection opened ahead: %v, want %v", tc.name, got.code, got.body, got.err, ahead, tc.ahead)
		}
	}
}
