package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// fake files are numbers that no descriptor has: closing them does nothing.
const fakeFile = 1 << 20

// TestStoreIsAMapWhoseOrderIsThatOfNames compares a store with a map.
func TestStoreIsAMapWhoseOrderIsThatOfNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, model := newStore(), map[string]string{}
		names := rapid.SampledFrom([]string{"a", "b", "c/1", "c/2", "d"})
		ended := map[int]unix.WaitStatus{}
		for pid := 2; pid < 40; pid++ {
			name := names.Draw(t, "name")
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0:
				s.put(request{Op: opPut, Name: name, PID: pid, Data: []byte(fmt.Sprint(pid))}, []int{fakeFile + pid})
				model[name] = fmt.Sprint(pid)
			case 1:
				_, there := model[name]
				if s.update(name, []byte("new")) != there {
					t.Fatalf("update of %s: there it was: %v", name, there)
				}
				if there {
					model[name] = "new"
				}
			case 2:
				s.remove(name)
				delete(model, name)
			case 3: // a process ends, named or not
				dead := rapid.IntRange(2, pid).Draw(t, "dead")
				if _, again := ended[dead]; !again {
					ended[dead] = unix.WaitStatus(dead << 8)
					s.died(dead, ended[dead])
				}
			case 4:
				var got []string
				for after, more := "", true; more; {
					var batch []*entry
					batch, more = s.next(after)
					for _, e := range batch {
						got = append(got, e.name+"="+string(e.data))
						after = e.name
					}
				}
				var want []string
				for _, name := range slices.Sorted(maps.Keys(model)) {
					want = append(want, name+"="+model[name])
				}
				if !slices.Equal(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
			}
			for dead := range ended {
				if s.alive()[dead] {
					t.Fatalf("process %d is told to live", dead)
				}
			}
			for _, e := range s.entries {
				if status, known := ended[e.pid]; known != e.ended || e.status != status {
					t.Fatalf("%s: process %d: %v %v, want %v %v", e.name, e.pid, e.ended, e.status, known, status)
				}
			}
		}
	})
}

func TestBatchesFitIntoAMessage(t *testing.T) {
	s := newStore()
	const n = 300
	for i := range n {
		files := make([]int, MaxFiles)
		for j := range files {
			files[j] = fakeFile
		}
		s.put(request{Op: opPut, Name: fmt.Sprintf("%s-%03d", strings.Repeat("x", MaxName-4), i), Data: make([]byte, MaxData/(1+i%50))}, files)
	}
	seen := 0
	for after, more := "", true; more; {
		var batch []*entry
		batch, more = s.next(after)
		answer, files := response{More: more}, 0
		for _, e := range batch {
			answer.Entries = append(answer.Entries, header{Name: e.name, Data: e.data, Files: len(e.files)})
			files += len(e.files)
			after = e.name
		}
		message, err := json.Marshal(answer)
		if err != nil || len(message) > maxMessage || files > 253 {
			t.Fatalf("a message of %d bytes and %d files: %v", len(message), files, err)
		}
		seen += len(batch)
	}
	if seen != n {
		t.Errorf("%d entries, want %d", seen, n)
	}
}

func TestOldDeathsAreForgotten(t *testing.T) {
	s := newStore()
	for pid := range deathsKept + 2 {
		s.died(2+pid, 0)
	}
	if _, ok := s.statusOf(3); ok || len(s.deaths) != deathsKept {
		t.Errorf("%d deaths are kept, the oldest: %v", len(s.deaths), ok)
	}
	if _, ok := s.statusOf(2 + deathsKept + 1); !ok {
		t.Error("the newest is not known")
	}
}

// FuzzMessages holds that no message makes the supervisor or its charge do more
// than refuse it, and that what is taken is within bounds.
func FuzzMessages(f *testing.F) {
	f.Add([]byte(`{"op":"put","name":"container/a","pid":17,"data":"e30="}`), 3)
	f.Add([]byte(`{"op":"next"}`), 0)
	f.Add([]byte(`{"op":"status","pid":-4}`), 0)
	f.Add([]byte(`{"entries":[{"name":"a","files":2},{"name":"b","files":1}],"more":true}`), 3)
	f.Add([]byte(`{"more":true}`), 0)
	f.Fuzz(func(t *testing.T, message []byte, files int) {
		files &= 0xff
		if r, err := parseRequest(message, files); err == nil {
			if len(r.Name) > MaxName || len(r.Data) > MaxData || r.PID == 1 || r.PID < 0 || files > MaxFiles {
				t.Errorf("taken: %+v with %d files", r, files)
			}
		} else if !errors.Is(err, errMessage) {
			t.Errorf("refused with %v", err)
		}
		if r, err := parseResponse(message, files); err == nil {
			for _, h := range r.Entries {
				files -= h.Files
			}
			if files != 0 {
				t.Errorf("taken: %+v", r)
			}
		}
	})
}

func TestParentInStat(t *testing.T) {
	for stat, want := range map[string]int{
		"17 (node) S 4 17 17 0 -1":           4,
		"17 (a) R 9 (b) c) S 12 17 17 0 -1":  12,
		"17 (x":                              0,
		"":                                   0,
		"17 (x) S":                           0,
		"17 (new\nline) Z 33 17 17 0 -1 \n ": 33,
	} {
		if got, ok := parentIn([]byte(stat)); got != want || ok != (want > 0) {
			t.Errorf("%q: %d %v, want %d", stat, got, ok, want)
		}
	}
}

func TestOwnChildrenAreFound(t *testing.T) {
	pids, err := children(os.Getppid())
	if err != nil || !slices.Contains(pids, os.Getpid()) {
		t.Errorf("%d is not among its parent's children %v (%v)", os.Getpid(), pids, err)
	}
}
