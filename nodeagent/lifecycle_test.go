package nodeagent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/workerconn"
)

func TestLifecycle(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f := (&failure{reason: "SyntaxError", message: "bad"}).ended(container.ExitStatus{Code: 1}, start, start)
	notRun := &failure{reason: ReasonBundleFetchFailed, message: "none"}
	type step struct {
		what  string
		do    func(l *lifecycle, now time.Time)
		state State
		// retryIn is the delay of a failed pod.
		retryIn time.Duration
	}
	prepared := step{"prepared", (*lifecycle).prepared, Parked, 0}
	activated := step{"activated", (*lifecycle).activated, Active, 0}
	parked := step{"parked", func(l *lifecycle, _ time.Time) { l.parked() }, Parked, 0}
	failed := func(in time.Duration) step {
		return step{"failed", func(l *lifecycle, now time.Time) { l.failed(f, now) }, Failed, in}
	}
	exited := func(lived time.Duration, state State, in time.Duration) step {
		return step{"exited after " + lived.String(), func(l *lifecycle, now time.Time) { l.exited(f, lived, now) }, state, in}
	}
	for name, tc := range map[string]struct {
		steps    []step
		restarts int
	}{
		"parked from the start":         {[]step{prepared, activated, parked, activated}, 0},
		"delays of loads grow":          {[]step{failed(10 * time.Second), failed(20 * time.Second), failed(40 * time.Second), failed(80 * time.Second), failed(160 * time.Second), failed(5 * time.Minute), failed(5 * time.Minute)}, 6},
		"a pod without a container":     {[]step{{"not fetched", func(l *lifecycle, now time.Time) { l.failed(notRun, now) }, Failed, 10 * time.Second}, failed(20 * time.Second)}, 0},
		"the first death is forgiven":   {[]step{activated, exited(time.Second, Parked, 0), activated, exited(time.Second, Failed, 10*time.Second), activated, exited(time.Second, Failed, 20*time.Second)}, 2},
		"a long life starts over":       {[]step{activated, exited(time.Second, Parked, 0), activated, exited(10*time.Minute, Parked, 0), activated, exited(time.Second, Failed, 10*time.Second)}, 2},
		"being idle once starts over":   {[]step{activated, exited(time.Second, Parked, 0), activated, parked, activated, exited(time.Second, Parked, 0)}, 2},
		"prepared after it had failed":  {[]step{failed(10 * time.Second), prepared, failed(10 * time.Second)}, 1},
		"prepared late changes nothing": {[]step{activated, {"prepared", (*lifecycle).prepared, Active, 0}}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			l, now := newLifecycle(), start
			for i, s := range tc.steps {
				now = now.Add(time.Hour)
				s.do(&l, now)
				if l.state != s.state {
					t.Fatalf("step %d, %s: %v, want %v", i, s.what, l.state, s.state)
				}
				if in := l.retryAt.Sub(now); l.state == Failed && in != s.retryIn {
					t.Errorf("step %d, %s: retry in %v, want %v", i, s.what, in, s.retryIn)
				}
				if l.ready() && l.failure != nil && s.state == Active {
					t.Errorf("step %d, %s: ready with a failure", i, s.what)
				}
			}
			if l.restarts() != tc.restarts {
				t.Errorf("%d restarts, want %d", l.restarts(), tc.restarts)
			}
		})
	}
}

func TestBackoffNeverOverflows(t *testing.T) {
	for n := 1; n < 200; n++ {
		if d := backoff(n); d < backoffFirst || d > backoffLast {
			t.Fatalf("after %d failures: %v", n, d)
		}
	}
}

func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUsage(time.Now())
		check := func(what string, want time.Duration) {
			t.Helper()
			if got := u.idleFor(time.Now()); got != want {
				t.Errorf("%s: idle for %v, want %v", what, got, want)
			}
		}
		sleep := func() { <-time.After(time.Second) }
		sleep()
		check("at first", time.Second)
		u.begin()
		check("in a request", -1)
		u.report(workerconn.Activity{InFlight: 1, Direct: 1}, time.Now())
		u.end(time.Now())
		check("the worker still has a connection", -1)
		sleep()
		u.report(workerconn.Activity{}, time.Now())
		check("just idle", 0)
		sleep()
		check("idle", time.Second)
		u.report(workerconn.Activity{}, time.Now())
		check("a report of idleness tells of activity before it", 0)
	})
}

func TestAssignmentsAreValidated(t *testing.T) {
	good := func() *Assignment {
		return &Assignment{PodUID: "u-1", Namespace: "default", PodName: "hello", Address: addrOf("10.245.0.1").parse(), Port: 8080, Runtime: "node24", Entry: "/function",
			Mounts: []PodMount{{Path: "/function", Bundle: "sha256:x"}}}
	}
	if err := good().validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(a *Assignment){
		"UID with a slash":        func(a *Assignment) { a.PodUID = "../x" },
		"hidden UID":              func(a *Assignment) { a.PodUID = ".x" },
		"namespace with dots":     func(a *Assignment) { a.Namespace = "../x" },
		"namespace too long":      func(a *Assignment) { a.Namespace = strings.Repeat("n", 64) },
		"no name":                 func(a *Assignment) { a.PodName = "" },
		"no address":              func(a *Assignment) { a.Address = addrOf("::1").parse() },
		"no port":                 func(a *Assignment) { a.Port = 0 },
		"no runtime":              func(a *Assignment) { a.Runtime = "" },
		"relative entry":          func(a *Assignment) { a.Entry = "function" },
		"negative timeout":        func(a *Assignment) { a.IdleTimeout = -1 },
		"tiny memory":             func(a *Assignment) { a.Resources.MemoryBytes = 1 },
		"mount over the root":     func(a *Assignment) { a.Mounts[0].Path = "/" },
		"mount with dots":         func(a *Assignment) { a.Mounts[0].Path = "/a/../b" },
		"mount without a source":  func(a *Assignment) { a.Mounts[0].Bundle = "" },
		"mount with two":          func(a *Assignment) { a.Mounts[0].EmptyDir = "d" },
		"emptyDir with a slash":   func(a *Assignment) { a.Mounts[0] = PodMount{Path: "/d", EmptyDir: "a/b"} },
		"file that leaves":        func(a *Assignment) { a.Mounts[0] = PodMount{Path: "/d", Files: map[string][]byte{"../x": nil}} },
		"absolute file":           func(a *Assignment) { a.Mounts[0] = PodMount{Path: "/d", Files: map[string][]byte{"/x": nil}} },
		"line break in DNS":       func(a *Assignment) { a.DNS.Searches = []string{"a\nnameserver 1.2.3.4"} },
		"white space in hostname": func(a *Assignment) { a.Hostname = "a b" },
	} {
		a := good()
		spoil(a)
		if err := a.validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestTheLongestPodName(t *testing.T) {
	a := &Assignment{PodUID: "u-1", Namespace: strings.Repeat("n", 63), PodName: strings.Repeat("p", 62) + "-" + strings.Repeat("p", 190),
		Address: addrOf("10.245.0.1").parse(), Port: 8080, Runtime: "node24", Entry: "/function"}
	if err := a.validate(); err != nil {
		t.Error(err)
	}
	if got, want := a.hostname(), strings.Repeat("p", 62); got != want {
		t.Errorf("its host name is %q, want %q", got, want)
	}
}

func TestSameWork(t *testing.T) {
	a := &Assignment{Epoch: Epoch{1, 1}, Env: map[string]string{"A": "b"}}
	b := &Assignment{Epoch: Epoch{2, 1}, Env: map[string]string{"A": "b"}, StartParked: true}
	if !a.sameWork(b) {
		t.Errorf("differ: %s", cmp.Diff(a, b))
	}
	b.Env["A"] = "c"
	if a.sameWork(b) {
		t.Error("another environment is the same work")
	}
}
