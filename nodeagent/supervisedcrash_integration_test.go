//go:build integration

package nodeagent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/internal/failpoint"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// victimDeaths, if set, is a folder with one file for each point at which a
// supervised agent is to die, named as deathFile says.
const victimDeaths = "SANFRAN_TEST_VICTIM_DEATHS"

// A death is ordered by an empty file. It waits until there is one beside it that
// is named armed; the agent that dies writes obituary into its own.
const armed = "armed"

func deathFile(dir string, p crashPoint) string {
	return filepath.Join(dir, fmt.Sprintf("%s@%d", p.name, max(p.nth, 1)))
}

// obituary is what a dying agent's supervisor kept at the time: the stages of its
// containers by their ids; and Folders, the ids of all that were on the disk.
type obituary struct {
	At      time.Time
	Kept    map[string]stage
	Folders []string
}

// armDeaths makes this process die once at each point that was ordered: it is the
// supervised agent, or a later one.
func armDeaths(dir string, cfg Config) error {
	orders, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var dying sync.Mutex // one at a time, and for good
	for _, order := range orders {
		file := filepath.Join(dir, order.Name())
		name, nth, ok := strings.Cut(order.Name(), "@")
		if data, err := os.ReadFile(file); err != nil || !ok || len(data) > 0 {
			continue
		}
		n, err := strconv.Atoi(nth)
		if err != nil {
			return err
		}
		var come atomic.Int64
		failpoint.Arm(name, func() error {
			if _, err := os.Stat(filepath.Join(dir, armed)); err != nil || come.Add(1) != int64(n) {
				return nil
			}
			dying.Lock()
			fmt.Fprintf(os.Stderr, "failpoint: %s\n", order.Name())
			if err := writeObituary(file, cfg); err != nil {
				fmt.Fprintln(os.Stderr, err) // the test finds none
			}
			return failpoint.Die()
		})
	}
	return nil
}

func writeObituary(file string, cfg Config) error {
	o := obituary{At: time.Now(), Kept: map[string]stage{}}
	all, err := cfg.Supervisor.Kept(keptContainers)
	if err != nil {
		return err
	}
	for _, k := range all {
		var r containerRecord
		if err := json.Unmarshal(k.Data, &r); err != nil {
			return err
		}
		o.Kept[strings.TrimPrefix(k.Name, keptContainers)] = r.Stage
	}
	if o.Folders, err = containerFolders(cfg.WorkDir); err != nil {
		return err
	}
	data, err := json.Marshal(o)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

func containerFolders(dir string) (ids []string, err error) {
	entries, err := os.ReadDir(filepath.Join(dir, "containers", "run", "slots"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, entry := range entries {
		if containerID.MatchString(entry.Name()) {
			ids = append(ids, entry.Name())
		}
	}
	return ids, nil
}

// TestEveryCrashOfTheAgentAloneIsRecoveredFrom kills the agent's process, once at
// each point of its life, under its supervisor. A container that serves is the same
// before and after, to its connections too; one that was being started or leased is
// gone when the next process says hello; and the node looks in the end as it does
// without a crash (I8).
//
// Of crashPoints there are left to TestEveryCrashIsRecoveredFrom: those of an agent
// that is told to stop, as its supervisor starts none after it; those of the file of
// assignments, which is written once a second, in so short a life at the stop only;
// those before its node stands for the first time, when nothing is kept; and those of
// the OCI runtime at work.
func TestEveryCrashOfTheAgentAloneIsRecoveredFrom(t *testing.T) {
	want := aloneIn(t)
	if os.Getenv("SANFRAN_CRASH_LONG") == "" {
		var some []crashPoint
		for _, p := range crashPoints {
			if p.alone {
				some = append(some, p)
			}
		}
		if diff := gocmp.Diff(want, aloneIn(t, some...)); diff != "" {
			t.Errorf("the node looks otherwise than without the crashes (-without +with):\n%s", diff)
		}
		t.Logf("%d points in one life; the rest, each in a life of its own, are left to make test-long PART=crashes", len(some))
		return
	}
	for _, p := range crashPoints {
		if p.runtime != "" || p.after != "" || strings.HasPrefix(p.name, "stop: ") || strings.HasPrefix(p.name, "snapshot: ") || strings.HasPrefix(p.name, "node: one more") {
			continue
		}
		t.Run(p.String(), func(t *testing.T) {
			if diff := gocmp.Diff(want, aloneIn(t, p)); diff != "" {
				t.Errorf("the node looks otherwise than without the crash (-without +with):\n%s", diff)
			}
		})
	}
}

// aloneIn leads a supervised agent through its life, in which its process dies at
// the points.
func aloneIn(t *testing.T, points ...crashPoint) (l aftermath) {
	t.Helper()
	dir, cp, deaths := newWorkDir(t), newFakeControlPlane(t), t.TempDir()
	for _, p := range points {
		if err := os.WriteFile(deathFile(deaths, p), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := startSupervised(t, dir, cp, victimShort+"=1", victimDeaths+"="+deaths)
	a := &aloneLife{supervisedAgent: s, deaths: deaths, points: points, died: map[string]bool{}}

	stays := assignment("stays", "10.245.6.9", cp.bundle(map[string]string{"index.js": who}))
	stays.IdleTimeout = durationpb.New(0)
	cp.update(func() { cp.sync = []*agentv1.Assignment{stays} })
	cp.assign(stays)
	active := cp.waitState(stays, agentv1.PodState_POD_STATE_ACTIVE)
	pid := s.processOf(stays)
	lines := []*line{
		openLine(t, stays.GetAddress()+":8080", ""),
		openLine(t, active.GetInstance().GetAddress(), router.HeaderLease+": "+active.GetInstance().GetLeaseId()+"\r\n"),
	}
	word := ""
	a.check = func() {
		t.Helper()
		for _, l := range lines {
			got, err := l.ask()
			if word == "" {
				word = got
			}
			if err != nil || got != word {
				t.Errorf("the container that serves: %q %v, want %q", got, err, word)
			}
		}
		if now := s.processOf(stays); now != pid {
			t.Errorf("the process of the container that serves is %d, was %d", now, pid)
		}
		cp.mu.Lock()
		told := cp.known(stays)
		cp.mu.Unlock()
		if told.GetState() != agentv1.PodState_POD_STATE_ACTIVE || told.GetInstance().GetLeaseId() != active.GetInstance().GetLeaseId() || told.GetRestartCount() != 0 {
			t.Errorf("its pod is told as %v, was %v", told, active)
		}
	}
	a.check()
	if err := os.WriteFile(filepath.Join(deaths, armed), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if len(points) == 1 && points[0].setsUp() {
		s.kill(nil) // the next process goes on with a node that stands, and dies there
	}

	pod := crashPod(cp)
	is := func(states ...agentv1.PodState) func() bool {
		return func() bool { return slices.Contains(states, cp.known(pod).GetState()) }
	}
	cp.update(func() { cp.sync = []*agentv1.Assignment{stays, pod} })
	cp.assign(pod)
	a.until("the pod to be ready", is(agentv1.PodState_POD_STATE_ACTIVE, agentv1.PodState_POD_STATE_PARKED))
	for range 2 {
		a.until("the pod to answer", func() bool { return a.answers(pod) })
		a.until("the pod to be parked", is(agentv1.PodState_POD_STATE_PARKED))
	}
	withdrawn := 0
	cp.update(func() { cp.sync, withdrawn = []*agentv1.Assignment{stays}, len(cp.hellos) })
	cp.withdraw(pod, time.Second)
	a.until("the pod to be gone", func() bool {
		// A process that never knew it says nothing of it.
		later := cp.hellos[withdrawn:]
		return is(agentv1.PodState_POD_STATE_GONE)() || len(later) > 0 && !slices.ContainsFunc(later[len(later)-1].GetPods(), func(p *agentv1.PodStatus) bool { return p.GetPodUid() == pod.GetPodUid() })
	})
	a.until("all other containers to be gone but a warm one", func() bool {
		p := cp.pools["node24"]
		ids, err := containerFolders(dir)
		return err == nil && len(ids) == 2 && p.GetWarm() == 1 && p.GetLeased() == 1 && p.GetWarming()+p.GetDraining() == 0
	})
	for _, p := range points {
		if !a.died[deathFile(deaths, p)] {
			t.Errorf("the agent has not come by %q", p)
		}
	}
	a.check()
	for _, l := range lines {
		l.conn.Close()
	}
	l.Running = look(t, s.cfg)
	l.Running["files"] = filesOfContainers(l.Running["files"])
	s.stop()
	l.Stopped = look(t, s.cfg)
	return l
}

// setsUp says that the agent comes by only when it starts.
func (p crashPoint) setsUp() bool {
	return strings.HasPrefix(p.name, "node: ") || strings.HasPrefix(p.name, "pod addresses: ") ||
		p.name == "network: rules installed" || p.name == "network: bridge made"
}

// aloneLife is a supervised agent's life with deaths of its process.
type aloneLife struct {
	*supervisedAgent
	deaths string
	points []crashPoint
	died   map[string]bool // by deathFile
	// check looks at the container that serves all the time.
	check func()
}

// until waits for what the control plane hears, over the process's deaths. done is
// called with the control plane's lock.
func (a *aloneLife) until(what string, done func() bool) {
	a.t.Helper()
	eventually(a.t, what, func() bool {
		a.mourn()
		a.cp.mu.Lock()
		defer a.cp.mu.Unlock()
		return done()
	})
}

// answers calls the pod. A request that the dying process had taken is lost.
func (a *aloneLife) answers(pod *agentv1.Assignment) bool {
	a.cp.mu.Unlock() // the agent may have to speak to the control plane first
	defer a.cp.mu.Lock()
	got := get(a.t.Context(), "http://"+pod.GetAddress()+":8080/")
	return got.err == nil && got.code == http.StatusOK && got.body == "here"
}

// mourn looks after a death of the process at what the next one took over.
func (a *aloneLife) mourn() {
	a.t.Helper()
	for _, p := range a.points {
		file := deathFile(a.deaths, p)
		data, err := os.ReadFile(file)
		if err != nil || len(data) == 0 || a.died[file] {
			continue
		}
		a.died[file] = true
		var o obituary
		if err := json.Unmarshal(data, &o); err != nil {
			a.t.Fatal(err)
		}
		// That may have come only after more deaths.
		a.cp.wait("the hello of a process after a death at "+p.String(), func() bool { return a.cp.helloAt.After(o.At) })
		a.pid = a.agent()
		left, err := containerFolders(a.cfg.WorkDir)
		if err != nil {
			a.t.Fatal(err)
		}
		for _, id := range o.Folders {
			s, kept := o.Kept[id]
			if (!kept || s == stageLeasing) && slices.Contains(left, id) {
				a.t.Errorf("died at %q: container %s, which was being started or leased (kept: %t), is still there", p, id, kept)
			}
		}
		a.check()
	}
}
