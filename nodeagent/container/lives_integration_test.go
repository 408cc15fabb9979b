//go:build integration

package container_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

func TestKilledFromOutside(t *testing.T) { eachRuntime(t, killedFromOutside) }

func killedFromOutside(t *testing.T, h *host) {
	s := h.serve(t, "victim", nil)
	resp, err := http.Post(s.url, "", strings.NewReader(`process.kill(1, "SIGKILL"); process.abort()`))
	if err == nil {
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Fatal("the container lives on")
	}
	if st := s.ExitStatus(); st.OOMKilled || st.Code == 0 {
		t.Errorf("ExitStatus = %+v", st)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// The agent dies with containers alive, and a container's folders, state and
// control group each survive alone. The next life removes all.
func TestSweepRemovesAnEarlierLife(t *testing.T) { eachRuntime(t, sweepRemovesAnEarlierLife) }

func sweepRemovesAnEarlierLife(t *testing.T, h *host) {
	s := h.serve(t, "orphan", nil)
	slots, state := filepath.Join(h.workDir, "run/slots"), filepath.Join(h.workDir, "run/state")
	for _, dir := range []string{filepath.Join(slots, "half-made", "rootfs"), filepath.Join(state, "stale")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "index.js"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount(t.Context(), container.Mount{Source: bundle, Target: "/function"}); err != nil {
		t.Fatal(err)
	}
	if _, err := container.NewRunc(container.RuncOptions{Binary: h.binary, WorkDir: h.workDir, Cgroups: h.cgroups}); err == nil {
		t.Fatal("two runtimes share a work directory")
	}
	h.runc.DropLock(t)
	h.open(t)
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Error("the orphan lives on")
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
	if _, err := os.Stat(filepath.Join(bundle, "index.js")); err != nil {
		t.Errorf("the sweep has deleted what was mounted: %v", err)
	}
}

// One container after another from nothing to a program that has booted, and
// back to nothing. The times are reported, not judged: machines differ.
func TestTimes(t *testing.T) {
	h := newHost(t)
	var warms, destroys []time.Duration
	for i := range 10 {
		began := time.Now()
		s := h.serve(t, fmt.Sprint("time", i), nil)
		warms = append(warms, time.Since(began))
		began = time.Now()
		if err := s.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		destroys = append(destroys, time.Since(began))
	}
	for _, d := range [][]time.Duration{warms, destroys} {
		slices.Sort(d)
	}
	t.Logf("medians: start to warm %v, destroy %v", warms[5], destroys[5])
}
