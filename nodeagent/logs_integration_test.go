//go:build integration

package nodeagent

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/logs"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// TestTheLogOfARealFunction has a function write by every way there is, in a real
// container: all of it is in its log, in order, and nothing else.
func TestTheLogOfARealFunction(t *testing.T) {
	a := startAgent(t, nil)
	pod := assignment("talker", "10.245.3.20", a.cp.bundle(map[string]string{"index.js": `
		console.log('loading')
		const { execSync } = require('child_process')
		exports.streams = (req, res) => { for (let i = 0; i < 100; i++) { console.log('out', i); console.error('err', i) } res.end() }
		exports.big = (req, res) => { console.log('x'.repeat(3e6)); console.error(new Error('with a stack')); res.end() }
		exports.raw = (req, res) => { execSync('echo from a child; echo its error >&2', { stdio: 'inherit' }); require('fs').writeSync(1, 'past the worker\n'); res.end() }
		exports.exit = () => { console.log('the last word', 'y'.repeat(200_000)); process.exit(3) }
		exports.crash = () => { console.log('before'); setImmediate(() => { throw new Error('uncaught') }) }`}))
	pod.IdleTimeout = durationpb.New(0)
	a.cp.assign(pod)
	a.cp.waitState(pod, agentv1.PodState_POD_STATE_ACTIVE)
	p := a.pods.get(pod.GetPodUid())
	ask := func(path string) {
		t.Helper()
		get(t.Context(), "http://"+a.cfg.dataAddress()+path, router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision(), "X-Request-Id", "id-of"+strings.ReplaceAll(path, "/", "-"))
	}
	want := "loading\n"
	ask("/streams")
	for i := range 100 {
		want += fmt.Sprintf("out %d\nerr %d\n", i, i)
	}
	ask("/big")
	want += strings.Repeat("x", 3_000_000) + "\nError: with a stack\n    at "
	got := readLogUntil(t, p, "with a stack\n    at ")
	if !strings.HasPrefix(got, want) {
		t.Errorf("the log has %d bytes, not beginning with the %d wanted: %.3000s", len(got), len(want), got)
	}
	ask("/raw")
	for _, raw := range []string{"\nfrom a child\n", "\nits error\n", "\npast the worker\n"} {
		readLogUntil(t, p, raw)
	}
	ask("/exit")
	a.cp.wait("the exit", func() bool { return restartsOf(a.cp, pod) == 1 })
	exited := readLog(t, p, logs.ReadOptions{Previous: true})
	if !strings.HasSuffix(exited, "\nthe last word "+strings.Repeat("y", 200_000)+"\n") {
		t.Errorf("before process.exit: …%s", exited[max(0, len(exited)-100):])
	}
	if files := filesOf(t, a.cfg.Logs.Dir); !strings.Contains(files, " stderr F:req=id-of-streams err 7\n") || !strings.Contains(files, " stdout F loading\n") {
		t.Errorf("records do not name their requests:\n%.2000s", files)
	}
	ask("/crash")
	a.cp.wait("the crash", func() bool { return restartsOf(a.cp, pod) == 2 })
	crashed := readLog(t, p, logs.ReadOptions{Previous: true})
	if !strings.HasPrefix(crashed, "loading\nbefore\n") || !strings.Contains(crashed, "Error: uncaught\n    at ") {
		t.Errorf("of a crash: %q", crashed)
	}
}

func restartsOf(cp *fakeControlPlane, pod *agentv1.Assignment) (restarts int32) {
	for _, s := range cp.statuses {
		if s.GetPodUid() == pod.GetPodUid() {
			restarts = max(restarts, s.GetRestartCount())
		}
	}
	return restarts
}

// filesOf is the content of all files below dir.
func filesOf(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	if err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(name)
		all.Write(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return all.String()
}
