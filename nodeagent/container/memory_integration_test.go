//go:build integration

package container_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

const hog = `const all = []; for (;;) all.push(Buffer.alloc(1 << 20, 1))`

// run sends JavaScript whose container is not expected to answer.
func (s *server) run(script string) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	if res, err := client.Post(s.url, "text/javascript", strings.NewReader(script)); err == nil {
		res.Body.Close()
	}
}

func (s *server) awaitEnd() container.ExitStatus {
	s.t.Helper()
	select {
	case <-s.Exited():
	case <-time.After(patience):
		s.t.Fatalf("container %s lives on", s.ID())
	}
	return s.ExitStatus()
}

func (s *server) lives() bool {
	select {
	case <-s.Exited():
		return false
	default:
		return true
	}
}

// The memory of all is used up by one that is far below its own limit. It is
// that one which ends, not those that keep to what they are owed, and not for
// its own limit.
func TestAFullNodeEndsWhoHasMoreThanItsRequest(t *testing.T) {
	h := newHost(t)
	if _, err := h.cgroups.Divide(container.Resources{MemoryBytes: 400 << 20}, container.Resources{}); err != nil {
		t.Fatal(err)
	}
	warm, quiet, greedy := h.serve(t, "warm", nil), h.serve(t, "quiet", nil), h.serve(t, "greedy", nil)
	limits := container.Resources{MemoryBytes: 2 << 30}
	if err := greedy.SetResources(t.Context(), limits); err != nil {
		t.Fatal(err)
	}
	limits.MemoryRequestBytes = 200 << 20
	if err := quiet.SetResources(t.Context(), limits); err != nil {
		t.Fatal(err)
	}
	scores := map[*server]string{warm: "1000", quiet: "500", greedy: "900"}
	for s, want := range scores {
		s.expect(`return require("fs").readFileSync("/proc/self/oom_score_adj", "utf8").trim()`, want)
	}
	greedy.run(hog)
	if st := greedy.awaitEnd(); !st.OOMKilled || !st.NodeFull || st.String() != "killed: the node was out of memory" {
		t.Errorf("ExitStatus = %+v", st)
	}
	// What else would be ended is a container that is nobody's.
	if !quiet.lives() {
		t.Errorf("who kept to its request was ended: %+v", quiet.ExitStatus())
	}
	if left, err := h.cgroups.MemoryLeft(0); err != nil || left <= 0 || left >= 400<<20 {
		t.Errorf("MemoryLeft = %d, %v", left, err)
	}
}

// The kernel ends a child process; the container lives, and its later end is not
// the kernel's doing.
func TestAnEndedChildIsNoEnd(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "parent", nil)
	if err := s.SetResources(t.Context(), container.Resources{MemoryBytes: 192 << 20}); err != nil {
		t.Fatal(err)
	}
	// The child is the larger one, so it is chosen.
	s.expect(`
		const child = require("child_process").spawn(process.execPath, ["--max-old-space-size=4096", "-e", "`+hog+`"])
		return await new Promise(done => child.on("exit", (code, signal) => done(signal)))`, "SIGKILL")
	group, err := filepath.Glob("/sys/fs/cgroup/memory" + h.base + "/functions/parent/memory.oom_control")
	if err != nil || len(group) != 1 {
		t.Fatal(group, err)
	}
	if control, err := os.ReadFile(group[0]); !strings.Contains(string(control), "oom_kill 1\n") {
		t.Fatalf("the kernel ended none: %q, %v", control, err)
	}
	s.expect(`return "here"`, "here")
	s.run(`process.exit(3)`)
	if st := s.awaitEnd(); st.OOMKilled || st.NodeFull || st.Code != 3 {
		t.Errorf("ExitStatus = %+v, want exit code 3", st)
	}
}

func TestTmpIsLimited(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "tmp", nil)
	began := time.Now()
	if err := s.SetResources(t.Context(), container.Resources{TmpBytes: 3 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Logf("SetResources took %v", time.Since(began))
	for _, dir := range []string{"/tmp", "/dev/shm"} {
		const fill = `const fs = require("fs"), fd = fs.openSync("DIR/full", "w"); let n = 0
			try { for (;;) n += fs.writeSync(fd, Buffer.alloc(1 << 16)) } catch (e) { return e.code + " " + n } finally { fs.closeSync(fd); fs.rmSync("DIR/full") }`
		s.expect(strings.ReplaceAll(fill, "DIR", dir), "ENOSPC "+strconv.Itoa(3<<20))
	}
	// More than the container was made with is not given.
	if err := s.SetResources(t.Context(), container.Resources{TmpBytes: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	s.expect(`const s = require("fs").statfsSync("/tmp"); return String(s.blocks * s.bsize)`, strconv.Itoa(256<<20))
}
