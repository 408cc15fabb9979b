package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// supervised units of these tests are real processes; time is what the test
// says it is.
func startSupervisor(t *testing.T, units ...unit) (*supervisor, func(...unit)) {
	t.Helper()
	dir := t.TempDir()
	s := newSupervisor(nodeSetup{Units: filepath.Join(dir, "units.json"), Status: filepath.Join(dir, "status.json"), Logs: dir})
	load := func(units ...unit) {
		t.Helper()
		content, err := json.Marshal(unitList{Generation: s.generation + 1, Units: units})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.setup.Units, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s.reload()
	}
	load(units...)
	s.act(time.Now())
	t.Cleanup(func() {
		load()
		for name, u := range s.units {
			if u.status.Running {
				syscall.Kill(u.status.PID, syscall.SIGKILL)
				s.waitFor(t, name)
			}
		}
	})
	return s, load
}

// waitFor waits until the unit's process has ended, and lets s take note.
func (s *supervisor) waitFor(t *testing.T, name string) {
	t.Helper()
	pid := s.units[name].status.PID
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
	s.reap()
}

func TestUnitThatEndsIsStartedAgainEverSlower(t *testing.T) {
	s, _ := startSupervisor(t, unit{Name: "short", Command: []string{"/bin/sh", "-c", "echo said; exit 3"}})
	u := s.units["short"]
	last := time.Duration(0)
	for starts := 1; starts < 8; starts++ {
		if !u.status.Running || u.status.Starts != starts {
			t.Fatalf("running %t after %d starts, want start %d", u.status.Running, u.status.Starts, starts)
		}
		s.waitFor(t, "short")
		if u.status.Running || u.status.LastExit != "exit code 3" {
			t.Fatalf("status %+v, want exit code 3", u.status)
		}
		if u.pause < last || u.pause > lastPause {
			t.Errorf("pause %s after %s", u.pause, last)
		}
		last = u.pause
		s.act(u.startAt.Add(-time.Millisecond))
		if u.status.Running {
			t.Error("started before its pause was over")
		}
		s.act(u.startAt)
	}
	if last != lastPause {
		t.Errorf("the last pause was %s, want %s", last, lastPause)
	}
	if log, err := os.ReadFile(filepath.Join(s.setup.Logs, "short.log")); err != nil || !strings.HasPrefix(string(log), "said\nsaid\n") {
		t.Errorf("log %q (%v)", log, err)
	}
}

func TestChangedUnitIsStartedAnewAtOnce(t *testing.T) {
	long := unit{Name: "long", Command: []string{"/bin/sleep", "600"}, Config: "1"}
	s, load := startSupervisor(t, long)
	u := s.units["long"]
	pid := u.status.PID
	load(long)
	s.act(time.Now())
	if u.status.PID != pid || u.status.Starts != 1 || !u.killAt.IsZero() {
		t.Fatal("a unit that did not change was touched")
	}
	long.Config = "2"
	load(long)
	s.waitFor(t, "long")
	s.act(time.Now())
	if !u.status.Running || u.status.PID == pid || u.status.Starts != 2 {
		t.Fatalf("status %+v, want a second start", u.status)
	}
}

func TestStoppedUnitStaysSo(t *testing.T) {
	long := unit{Name: "long", Command: []string{"/bin/sleep", "600"}}
	s, load := startSupervisor(t, long)
	u := s.units["long"]
	long.Stopped = true
	load(long)
	s.waitFor(t, "long")
	load(long)
	s.act(time.Now().Add(time.Hour))
	if u.status.Running || !u.status.Stopped {
		t.Fatalf("status %+v, want stopped", u.status)
	}
	long.Stopped = false
	load(long)
	s.act(time.Now())
	if !u.status.Running {
		t.Fatal("it does not run again")
	}
}

func TestUnitThatIgnoresSIGTERMIsKilled(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	if err := syscall.Mkfifo(ready, 0o600); err != nil {
		t.Fatal(err)
	}
	deaf := unit{Name: "deaf", Command: []string{"/bin/sh", "-c", "trap '' TERM; echo > " + ready + "; while :; do sleep 600; done"}}
	s, load := startSupervisor(t, deaf)
	if _, err := os.ReadFile(ready); err != nil {
		t.Fatal(err)
	}
	pid := s.units["deaf"].status.PID
	defer syscall.Kill(-pid, syscall.SIGKILL) // its sleep
	u := s.units["deaf"]
	load()
	s.act(u.killAt.Add(-time.Millisecond))
	s.reap()
	if !u.status.Running {
		t.Fatal("it did not ignore SIGTERM")
	}
	s.act(u.killAt)
	s.waitFor(t, "deaf")
	if u.status.LastExit != "signal: killed" || s.units["deaf"] != nil {
		t.Fatalf("status %+v; known still: %t", u.status, s.units["deaf"] != nil)
	}
}

func TestUnitWithoutProgramSaysSo(t *testing.T) {
	s, _ := startSupervisor(t, unit{Name: "absent", Command: []string{"/nowhere/program"}})
	if status := s.units["absent"].status; status.Running || !strings.Contains(status.LastExit, "/nowhere/program") {
		t.Errorf("status %+v", status)
	}
}
