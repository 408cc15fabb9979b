package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// unit is a program that a node runs and keeps running.
type unit struct {
	Name        string   `json:"name"`
	Command     []string `json:"command"` // the path of the program first
	Environment []string `json:"environment,omitempty"`
	// Config changes when the program's configuration files do; the program
	// is started again then.
	Config string `json:"config,omitempty"`
	// Stopped keeps the program from running.
	Stopped bool `json:"stopped,omitempty"`
}

// unitList is the file that tells a node what to run. The command line writes
// it and sends SIGHUP.
type unitList struct {
	Generation int    `json:"generation"`
	Units      []unit `json:"units"`
}

// unitStatus is what became of a unit.
type unitStatus struct {
	Name     string    `json:"name"`
	Running  bool      `json:"running"`
	Stopped  bool      `json:"stopped,omitempty"` // on request
	PID      int       `json:"pid,omitempty"`     // as the node counts
	Since    time.Time `json:"since,omitzero"`
	Starts   int       `json:"starts"`
	LastExit string    `json:"lastExit,omitempty"`
}

// statusList is the file in which a node tells what runs.
type statusList struct {
	Generation int          `json:"generation"` // of the unitList that was read last
	Units      []unitStatus `json:"units"`
}

// Pauses before a unit that ended is started again, and how long it has to run
// for the next pause to be the first one again.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = 10 * time.Second
	longRun    = 30 * time.Second
	// stopGrace is what a unit has between SIGTERM and SIGKILL.
	stopGrace = 5 * time.Second
	// maxLog is the size at which a log is begun anew when its unit starts.
	maxLog = 64 << 20
)

// supervisor is the first process of a node at work: it starts units, starts
// them again when they end, and reaps every process that lost its parent. All
// its state belongs to the goroutine in run.
type supervisor struct {
	setup      nodeSetup
	generation int
	order      []string
	units      map[string]*supervised
}

type supervised struct {
	unit
	status unitStatus
	pause  time.Duration
	// Points in time at which something is due, or zero.
	startAt, killAt time.Time
}

func newSupervisor(setup nodeSetup) *supervisor {
	return &supervisor{setup: setup, units: map[string]*supervised{}}
}

// run serves until SIGTERM. When it returns the process ends, and the kernel
// ends whatever the node still runs.
func (s *supervisor) run(signals <-chan os.Signal) error {
	s.reload()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		next := s.act(now)
		s.save()
		timer.Reset(next.Sub(now))
		select {
		case received := <-signals:
			switch received {
			case syscall.SIGTERM:
				return nil
			case syscall.SIGHUP:
				s.reload()
			}
		case <-timer.C:
		}
		s.reap()
	}
}

// reload reads the list of units and arranges what differs from what runs.
func (s *supervisor) reload() {
	list, err := readJSON[unitList](s.setup.Units)
	if err != nil {
		if !os.IsNotExist(err) {
			fmt.Fprintln(os.Stderr, "node-init:", err)
		}
		return
	}
	s.generation = list.Generation
	listed := map[string]bool{}
	s.order = s.order[:0]
	for _, want := range list.Units {
		listed[want.Name] = true
		s.order = append(s.order, want.Name)
		have := s.units[want.Name]
		if have == nil {
			have = &supervised{status: unitStatus{Name: want.Name}}
			s.units[want.Name] = have
		}
		changed := !sameUnit(have.unit, want)
		have.unit = want
		have.status.Stopped = want.Stopped
		switch {
		case have.status.Running && (changed || want.Stopped):
			s.end(have)
		case !have.status.Running && !want.Stopped:
			have.pause = 0
			have.startAt = time.Now()
		}
	}
	for name, have := range s.units {
		if !listed[name] {
			have.Stopped = true
			s.end(have)
			if !have.status.Running {
				delete(s.units, name)
			}
		}
	}
}

func sameUnit(a, b unit) bool {
	a.Stopped, b.Stopped = false, false
	left, _ := json.Marshal(a)
	right, _ := json.Marshal(b)
	return string(left) == string(right)
}

// end asks a running unit to end.
func (s *supervisor) end(u *supervised) {
	u.startAt = time.Time{}
	if u.status.Running && u.killAt.IsZero() {
		_ = syscall.Kill(u.status.PID, syscall.SIGTERM)
		u.killAt = time.Now().Add(stopGrace)
	}
}

// act does what is due and tells when something is due next.
func (s *supervisor) act(now time.Time) time.Time {
	next := now.Add(time.Hour)
	for _, u := range s.units {
		if !u.killAt.IsZero() && !now.Before(u.killAt) {
			_ = syscall.Kill(u.status.PID, syscall.SIGKILL)
			u.killAt = now.Add(stopGrace)
		}
		if !u.startAt.IsZero() && !now.Before(u.startAt) {
			s.start(u, now)
		}
		for _, due := range []time.Time{u.startAt, u.killAt} {
			if !due.IsZero() && due.Before(next) {
				next = due
			}
		}
	}
	return next
}

func (s *supervisor) start(u *supervised, now time.Time) {
	u.startAt = time.Time{}
	u.status.Starts++
	pid, err := s.spawn(u.unit)
	if err != nil {
		u.status.LastExit = err.Error()
		s.pauseBefore(u, now)
		return
	}
	u.status.Running, u.status.PID, u.status.Since = true, pid, now
}

func (s *supervisor) spawn(u unit) (int, error) {
	path := filepath.Join(s.setup.Logs, u.Name+".log")
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		_ = os.Rename(path, path+".1")
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	process, err := os.StartProcess(u.Command[0], u.Command, &os.ProcAttr{
		Dir: "/", Env: u.Environment, Files: []*os.File{null, log, log},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	pid := process.Pid
	return pid, process.Release() // reap waits for it
}

// pauseBefore arranges the next start of a unit that ended.
func (s *supervisor) pauseBefore(u *supervised, now time.Time) {
	u.pause = min(max(firstPause, 2*u.pause), lastPause)
	u.startAt = now.Add(u.pause)
}

// reap takes note of every process that ended.
func (s *supervisor) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if pid <= 0 || err != nil {
			return
		}
		for name, u := range s.units {
			if u.status.Running && u.status.PID == pid {
				s.ended(name, u, status, time.Now())
			}
		}
	}
}

func (s *supervisor) ended(name string, u *supervised, status syscall.WaitStatus, now time.Time) {
	if now.Sub(u.status.Since) > longRun {
		u.pause = 0
	}
	asked := !u.killAt.IsZero()
	u.status.Running, u.status.PID, u.killAt = false, 0, time.Time{}
	u.status.LastExit = describeExit(status)
	switch {
	case u.Stopped:
		for _, listed := range s.order {
			if listed == name {
				return
			}
		}
		delete(s.units, name)
	case asked: // to run again with another configuration
		u.startAt = now
	default:
		s.pauseBefore(u, now)
	}
}

func describeExit(status syscall.WaitStatus) string {
	if status.Signaled() {
		return "signal: " + status.Signal().String()
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}

// save writes what runs for others to read.
func (s *supervisor) save() {
	list := statusList{Generation: s.generation}
	for _, name := range s.order {
		list.Units = append(list.Units, s.units[name].status)
	}
	content, err := json.MarshalIndent(list, "", "  ")
	if err == nil {
		err = writeFile(s.setup.Status, content, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "node-init:", err)
	}
}

// readJSON reads a file of T.
func readJSON[T any](path string) (T, error) {
	var value T
	content, err := os.ReadFile(path)
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(content, &value); err != nil {
		return value, fmt.Errorf("%s: %w", path, err)
	}
	return value, nil
}
