//go:build integration

package container_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

func TestLimitsHoldInARunningContainer(t *testing.T) { eachRuntime(t, limitsHoldInARunningContainer) }

func limitsHoldInARunningContainer(t *testing.T, h *host) {
	s := h.serve(t, "limits", nil)
	began := time.Now()
	if err := s.SetResources(t.Context(), container.Resources{MilliCPU: 250, MemoryBytes: 96 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Logf("SetResources took %v", time.Since(began))
	s.expect(`return String(process.constrainedMemory())`, strconv.Itoa(96<<20))
	// 400 ms of work at a quarter of a processor take 1.6 s, give or take the
	// 100 ms of a period at either end.
	used := s.eval(`
		const began = process.hrtime.bigint(), cpu = process.cpuUsage()
		while (Number(process.hrtime.bigint() - began) < 2e9);
		const {user, system} = process.cpuUsage(cpu)
		return user + system`)
	if us, err := strconv.ParseFloat(used, 64); err != nil || us > 0.25*2e6+150e3 {
		t.Errorf("used %s µs of processor time in 2 s at 250m", used)
	}
	res, err := http.Post(s.url, "text/javascript", strings.NewReader(`const all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1))`))
	if err == nil {
		res.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Fatal("a container far above its memory limit lives on")
	}
	if st := s.ExitStatus(); !st.OOMKilled {
		t.Errorf("ExitStatus = %+v, want OOMKilled", st)
	}
}

func TestPidsLimit(t *testing.T) { eachRuntime(t, pidsLimit) }

func pidsLimit(t *testing.T, h *host) {
	s := h.serve(t, "pids", nil)
	s.expect(`
		const {spawn} = require("child_process")
		for (let i = 0; i < 2000; i++) {
			const child = spawn("/usr/bin/busybox", ["sleep", "1000000"])
			const error = await new Promise(done => { child.on("error", e => done(e.code)); child.on("spawn", () => done()) })
			if (error) return error
		}
		return "no limit"`, "EAGAIN")
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}
