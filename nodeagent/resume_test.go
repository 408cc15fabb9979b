package nodeagent

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"sanfran.dev/nodeagent/bundle"
	"sanfran.dev/nodeagent/container"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// again is a value as a later process reads it.
func again[T any](t *testing.T, v T) (read T) {
	t.Helper()
	data, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(data, &read)
	}
	if err != nil {
		t.Fatal(err)
	}
	return read
}

func TestALifeGoesOnAsItWas(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	crash := func() *failure {
		return (&failure{reason: ReasonExited, message: "it ended"}).ended(container.ExitStatus{Code: 3}, at, at.Add(time.Minute))
	}
	for name, live := range map[string]func(*lifecycle){
		"new":               func(*lifecycle) {},
		"active":            func(l *lifecycle) { l.activated(at) },
		"active, once dead": func(l *lifecycle) { l.activated(at); l.exited(crash(), time.Hour, at); l.activated(at.Add(time.Hour)) },
		"failed":            func(l *lifecycle) { l.activated(at); l.failed(crash(), at) },
	} {
		t.Run(name, func(t *testing.T) {
			before := newLifecycle()
			live(&before)
			after := again(t, before.keep()).resume()
			if !after.startedAt.Equal(before.startedAt) || after.ended != before.ended || after.failures != before.failures || !after.retryAt.Equal(before.retryAt) {
				t.Errorf("before %+v, after %+v", before, after)
			}
			if (before.state == Failed) != (after.state == Failed) {
				t.Errorf("before %v, after %v", before.state, after.state)
			}
			if before.last != nil && *before.last != *after.last {
				t.Errorf("ended before %+v, after %+v", before.last, after.last)
			}
			if before.failure != nil && before.failure.Error() != after.failure.Error() {
				t.Errorf("failed before %v, after %v", before.failure, after.failure)
			}
			if before.restarts() != after.restarts() {
				t.Errorf("restarts before %d, after %d", before.restarts(), after.restarts())
			}
		})
	}
}

// A later process knows an assignment from a file, or from the control plane: what
// it asks for must be found to be the same.
func TestWorkIsTheSameWhereverItIsReadFrom(t *testing.T) {
	m := assignment("hello", "10.245.0.1", "sha256:00")
	m.Mounts = append(m.Mounts,
		&agentv1.Mount{Path: "/token", Source: &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: map[string][]byte{"a": []byte("secret")}}}},
		&agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data"}}})
	m.Env = []*agentv1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}}
	told := assignmentOf(m)
	kept := again(t, told)
	if !told.sameWork(kept) || workOf(told) != workOf(kept) {
		t.Errorf("kept: %s", cmp.Diff(told, kept, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })))
	}
	m.Mounts[1].GetFiles().Files["a"] = []byte("another")
	m.Epoch.Counter++
	m.StartParked = true
	if renewed := assignmentOf(m); workOf(renewed) != workOf(told) {
		t.Error("renewed files and epochs are other work")
	}
	m.IdleTimeout = durationpb.New(time.Hour)
	if other := assignmentOf(m); workOf(other) == workOf(told) {
		t.Error("another idle timeout is the same work")
	}
}

// noBundles has none.
type noBundles struct{}

func (noBundles) Stats() bundle.Stats { return bundle.Stats{} }

func (noBundles) Get(context.Context, string, string) (*bundle.Bundle, error) {
	return nil, errors.New("the control plane is away")
}

func TestVolumesOfAnEarlierProcessStay(t *testing.T) {
	a := assignmentOf(assignment("hello", "10.245.0.1", ""))
	mounts := []PodMount{{Path: "/token", Files: map[string][]byte{"old": []byte("old"), "both": []byte("old")}}, {Path: "/data", EmptyDir: "data"}}
	dir := filepath.Join(t.TempDir(), "pod")
	emptyDirs := func(dir string) error { return os.MkdirAll(emptyDirFilesystem(dir, sharedEmptyDir), 0o777) }
	first, err := makeVolumes(t.Context(), noBundles{}, dir, a, mounts, emptyDirs)
	if err != nil {
		t.Fatal(err)
	}
	written := filepath.Join(emptyDirFolder(dir, mounts[1]), "written")
	if err := os.WriteFile(written, []byte("by the function"), 0o600); err != nil {
		t.Fatal(err)
	}
	hosts, err := os.Stat(filepath.Join(dir, "hosts"))
	if err != nil {
		t.Fatal(err)
	}
	mounts[0].Files = map[string][]byte{"new": []byte("new"), "both": []byte("new")}
	second, err := makeVolumes(t.Context(), noBundles{}, dir, a, mounts, emptyDirs)
	if err != nil {
		t.Fatal(err)
	}
	byTarget := func(a, b container.Mount) int { return len(a.Target) - len(b.Target) }
	slices.SortFunc(first.mounts, byTarget)
	slices.SortFunc(second.mounts, byTarget)
	if diff := cmp.Diff(first.mounts, second.mounts); diff != "" {
		t.Errorf("mounts: %s", diff)
	}
	if data, err := os.ReadFile(written); err != nil || string(data) != "by the function" {
		t.Errorf("in the emptyDir: %q %v", data, err)
	}
	entries, err := os.ReadDir(first.filesDir(0))
	if data, readErr := os.ReadFile(filepath.Join(first.filesDir(0), "both")); err != nil || readErr != nil || len(entries) != 2 || string(data) != "new" {
		t.Errorf("files: %v, %q: %v %v", entries, data, err, readErr)
	}
	if again, err := os.Stat(filepath.Join(dir, "hosts")); err != nil || !os.SameFile(hosts, again) || !again.ModTime().Equal(hosts.ModTime()) {
		t.Errorf("a file that containers have mounted was written anew: %v", err)
	}
	// What cannot be renewed now is not taken away.
	if _, err := makeVolumes(t.Context(), noBundles{}, dir, a, append(mounts, PodMount{Path: "/function", Bundle: "sha256:00"}), emptyDirs); err == nil {
		t.Error("a bundle came from nowhere")
	}
	if _, err := os.Stat(written); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	if _, err := makeVolumes(t.Context(), noBundles{}, dir+"-2", a, []PodMount{{Path: "/function", Bundle: "sha256:00"}}, emptyDirs); err == nil {
		t.Error("a bundle came from nowhere")
	}
	if _, err := os.Stat(dir + "-2"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a new folder after a failure: %v", err)
	}
}

func TestHeldAddressesAreLeftAlone(t *testing.T) {
	owner := &fakeAddresses{assigned: map[netip.Addr]bool{}}
	held, stale := netip.MustParseAddr("10.245.0.1"), netip.MustParseAddr("10.245.0.2")
	for _, addr := range []netip.Addr{held, stale} {
		if err := owner.Assign(addr); err != nil {
			t.Fatal(err)
		}
	}
	b := newAddressBook(owner, nil)
	b.hold(held)
	if err := b.removeStale(); err != nil {
		t.Fatal(err)
	}
	if owner.did1("remove 10.245.0.1") || !owner.did1("remove 10.245.0.2") {
		t.Errorf("did %v", owner.log)
	}
	b.unhold(held)
	b.unhold(held)
	if !owner.did1("remove 10.245.0.1") {
		t.Errorf("did %v", owner.log)
	}
}

func TestPortsRestNoLongerThanTheyWouldHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuarantine(time.Hour, 100, &keeper{})
		late, soon, over := &countedSocket{}, &countedSocket{}, &countedSocket{}
		q.adopt([]restingPort{{late, time.Now().Add(time.Minute)}, {over, time.Now().Add(-time.Second)}, {soon, time.Now().Add(time.Second)}})
		if over.released.Load() != 1 || soon.released.Load() != 0 {
			t.Errorf("released at once: %d %d", over.released.Load(), soon.released.Load())
		}
		<-time.After(2 * time.Second)
		synctest.Wait()
		if soon.released.Load() != 1 || late.released.Load() != 0 {
			t.Errorf("released after 2 s: %d %d", soon.released.Load(), late.released.Load())
		}
		q.close()
		if late.released.Load() != 1 {
			t.Error("not released at the end")
		}
	})
}
