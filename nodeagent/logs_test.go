package nodeagent

import (
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"sanfran.dev/nodeagent/logs"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

func readLog(t testing.TB, p *pod, opts logs.ReadOptions) string {
	t.Helper()
	r, err := p.log.Read(opts)
	if err != nil {
		return err.Error()
	}
	var all strings.Builder
	if err := r.Run(t.Context(), func(b []byte) error { all.Write(b); return nil }); err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// until reads what a pod writes until want has come.
func readLogUntil(t testing.TB, p *pod, want string) string {
	t.Helper()
	r, err := p.log.Read(logs.ReadOptions{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	if err := r.Run(t.Context(), func(b []byte) error {
		if all.Write(b); strings.Contains(all.String(), want) {
			return os.ErrClosed
		}
		return nil
	}); err == nil {
		t.Fatalf("the log ended without %q:\n%s", want, all.String())
	}
	return all.String()
}

func TestALogGoesOnOverParkingAndAgentsAndBeginsAnewAfterACrash(t *testing.T) {
	dir := t.TempDir()
	ta := startTestAgent(t, func(_ *testAgent, c *Config) { c.WorkDir = dir })
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(spec, agentv1.PodState_POD_STATE_ACTIVE)
	p := ta.pods.get(spec.GetPodUid())
	say := func(text string) {
		t.Helper()
		wantAnswer(t, ta.viaData(t.Context(), spec, "/print?text="+text+"%0A"), 200, "default/hello")
	}
	say("one")
	readLogUntil(t, p, "one\n")
	park(t, p)
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	say("two")
	readLogUntil(t, p, "one\ntwo\n")
	ta.stop()

	ta = startTestAgent(t, func(ta *testAgent, c *Config) {
		c.WorkDir = dir
		ta.cp.sync = []*agentv1.Assignment{spec}
	})
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	p = ta.pods.get(spec.GetPodUid())
	say("three")
	readLogUntil(t, p, "one\ntwo\nthree\n")
	if got := readLog(t, p, logs.ReadOptions{Previous: true}); got != logs.ErrNoPrevious.Error() {
		t.Errorf("without a crash the previous log is %q", got)
	}
	ta.viaData(t.Context(), spec, "/die")
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	say("four")
	readLogUntil(t, p, "four\n")
	for previous, want := range map[bool]string{false: "four\n", true: "one\ntwo\nthree\n"} {
		if got := readLog(t, p, logs.ReadOptions{Previous: previous}); got != want {
			t.Errorf("after a crash, previous %v: %q, want %q", previous, got, want)
		}
	}

	ta.cp.withdraw(spec, 0)
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_GONE)
	ta.stop()
	if left, err := os.ReadDir(ta.cfg.Logs.Dir); err != nil || len(left) > 0 {
		t.Errorf("of the log of a pod that is no more there is %v, %v", left, err)
	}
}

func park(t *testing.T, p *pod) {
	t.Helper()
	p.mu.Lock()
	i := p.current
	p.mu.Unlock()
	p.mu.Lock()
	p.detach(i)
	p.life.parked()
	p.mu.Unlock()
	p.agent.changed(p)
	i.retire(0)
	<-i.ended
}

func TestWhatDoesNotLoadSaysWhyInTheLog(t *testing.T) {
	ta := startTestAgent(t, nil)
	ta.workers.setBroken("hello", true)
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.cp.assign(spec)
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_FAILED)
	// The container is ended after that is told.
	if got := readLogUntilEnd(t, ta.pods.get(spec.GetPodUid())); got != "it does not load\n" {
		t.Errorf("the log is %q", got)
	}
}

func readLogUntilEnd(t *testing.T, p *pod) string {
	t.Helper()
	return readLog(t, p, logs.ReadOptions{Follow: true})
}

// While a pod is away from this agent its log may be deleted with it.
func TestLogsOfPodsThatWereDeletedMeanwhileGo(t *testing.T) {
	dir := t.TempDir()
	old, err := logs.Open(logs.Options{Dir: dir + "/logs"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hello", "deleted"} {
		c := logs.NewLines(func([]byte) {}, func(string) {})
		old.Pod("default", name, "uid-"+name).Begin(c)
		c.Raw(logs.Stdout, []byte("of before\n"))
	}
	spec := assignment("hello", "10.245.0.1", "")
	ta := startTestAgent(t, func(ta *testAgent, c *Config) {
		c.WorkDir = dir
		spec.StartParked = true
		ta.cp.sync = []*agentv1.Assignment{spec}
	})
	ta.cp.waitState(spec, agentv1.PodState_POD_STATE_PARKED)
	if got := readLog(t, ta.pods.get(spec.GetPodUid()), logs.ReadOptions{}); got != "of before\n" {
		t.Errorf("%q", got)
	}
	ta.stop()
	if left, err := os.ReadDir(ta.cfg.Logs.Dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A pipe that comes first is read first; what a process wrote past the worker
// last, is last.
func TestOutputKeepsTheOrderOfAFailure(t *testing.T) {
	store, err := logs.Open(logs.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	log := store.Pod("default", "hello", "uid")
	var words sync.Map
	for range 200 {
		o, err := newOutput("c", slog.New(slog.NewTextHandler(t.Output(), nil)))
		if err != nil {
			t.Fatal(err)
		}
		o.begin(log)
		w := &fakeWorker{log: o.frames.write}
		w.print("framed\n")
		if _, err := o.stderr.write.WriteString("Error: why\n"); err != nil {
			t.Fatal(err)
		}
		if err := o.close(); err != nil {
			t.Fatal(err)
		}
		words.Store(o.last(), true)
	}
	words.Range(func(word, _ any) bool {
		if word != "framed\nError: why\n" {
			t.Errorf("in this order: %q", word)
		}
		return true
	})
	r, err := log.Read(logs.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	if err := r.Run(t.Context(), func(b []byte) error { all.Write(b); return nil }); err != nil || all.String() != strings.Repeat("framed\nError: why\n", 200) {
		t.Errorf("%v\n%s", err, all.String())
	}
}

// TestWhatARequestFindsDeadCrashedOnce: its supervisor alone says how a container
// ended, before another one begins.
func TestWhatARequestFindsDeadCrashedOnce(t *testing.T) {
	ta := startTestAgent(t, nil)
	spec := assignment("hello", "10.245.0.1", ta.cp.bundle(nil))
	ta.assigned(spec, agentv1.PodState_POD_STATE_ACTIVE)
	p := ta.pods.get(spec.GetPodUid())
	wantAnswer(t, ta.viaData(t.Context(), spec, "/print?text=one%0A"), 200, "default/hello")
	readLogUntil(t, p, "one\n")
	i, err := p.lease(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i.usage.end(time.Now())
	if err := i.warm.container.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.lost(t.Context(), i)
	if s := p.status(); s.Restarts != 1 || s.Last == nil || s.Instance == i {
		t.Errorf("then it has %d restarts, last %v, and serves on: %v", s.Restarts, s.Last, s.Instance == i)
	}
	if got := readLog(t, p, logs.ReadOptions{Previous: true}); got != "one\n" {
		t.Errorf("its log is %q", got)
	}
	wantAnswer(t, ta.viaData(t.Context(), spec, "/"), 200, "default/hello")
}
