package nodeagent

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func TestBundlesOutliveTheAgent(t *testing.T) {
	dir := t.TempDir()
	for i := range 2 {
		ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.BundleDir = dir })
		pod := assignment("hello", "10.245.0.1", ta.cp.bundle(map[string]string{"index.js": "x"}))
		ta.assigned(pod, agentv1.PodState_POD_STATE_ACTIVE)
		wantAnswer(t, ta.viaData(t.Context(), pod, "/"), 200, "default/hello")
		ta.stop()
		if want := 1 - i; ta.cp.fetches != want {
			t.Errorf("agent %d: %d fetches, want %d", i+1, ta.cp.fetches, want)
		}
	}
}

func TestAParkedPodsBundleKeepsItsRoom(t *testing.T) {
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.BundleBytes = 100 << 10 })
	big := func(s string) map[string]string { return map[string]string{"index.js": strings.Repeat(s, 60<<10)} }
	first, second := assignment("first", "10.245.0.1", ta.cp.bundle(big("1"))), assignment("second", "10.245.0.2", ta.cp.bundle(big("2")))
	first.StartParked = true
	ta.assigned(first, agentv1.PodState_POD_STATE_PARKED)
	s := ta.assigned(second, agentv1.PodState_POD_STATE_FAILED)
	if s.GetReason() != ReasonBundleStoreFull || !strings.Contains(s.GetMessage(), "agent.bundleMiB") {
		t.Errorf("%s: %s", s.GetReason(), s.GetMessage())
	}
	wantAnswer(t, ta.viaData(t.Context(), second, "/"), http.StatusBadGateway, ReasonBundleStoreFull)
	wantAnswer(t, ta.viaData(t.Context(), first, "/"), 200, "default/first")

	huge := assignment("huge", "10.245.0.3", ta.cp.bundle(map[string]string{"index.js": strings.Repeat("3", 200<<10)}))
	if s := ta.assigned(huge, agentv1.PodState_POD_STATE_FAILED); s.GetReason() != ReasonBundleRefused {
		t.Errorf("%s: %s", s.GetReason(), s.GetMessage())
	}
	server := httptest.NewServer(ta.Handler())
	defer server.Close()
	eventually(t, "readiness", func() bool { return ta.Ready(t.Context()) == nil })
	got := get(t.Context(), server.URL+"/metrics")
	for _, want := range []string{
		"sanfran_agent_bundles 1\n", "sanfran_agent_bundle_bytes 73728\n", "sanfran_agent_bundle_bytes_in_use 73728\n", "sanfran_agent_bundle_budget_bytes 102400\n",
		"sanfran_agent_bundles_evicted_total 0\n", `sanfran_agent_bundle_fetch_seconds_count{result="failed"} 2`, `sanfran_agent_bundle_fetch_seconds_count{result="ok"} 1`,
	} {
		wantAnswer(t, got, 200, want)
	}

	// Once the first is gone there is room: the next try succeeds.
	ta.cp.withdraw(first, 0)
	ta.cp.waitState(first, agentv1.PodState_POD_STATE_GONE)
	p := ta.pods.get(second.GetPodUid())
	eventually(t, "the first pod's room", func() bool { return ta.bundles.Stats().InUse == 0 })
	locked(p, func() bool {
		if p.attempt == nil {
			p.try(true, true) // sooner than it would by itself
		}
		return true
	})
	ta.cp.waitState(second, agentv1.PodState_POD_STATE_ACTIVE)
}
