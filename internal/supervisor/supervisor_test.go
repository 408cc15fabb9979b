package supervisor

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// supervised is a supervisor in a process of its own, and the test's way to its
// charges.
type supervised struct {
	t        *testing.T
	cmd      *exec.Cmd
	listener *net.UnixListener
	conn     net.Conn
	in       *json.Decoder
	out      *json.Encoder
}

func start(t *testing.T) *supervised {
	t.Helper()
	address := filepath.Join(t.TempDir(), "test")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: address})
	if err != nil {
		t.Fatal(err)
	}
	s := &supervised{t: t, listener: listener, cmd: exec.Command("/proc/self/exe")}
	s.cmd.Env = []string{roleVariable + "=supervisor", testVariable + "=" + address, atOnce}
	s.cmd.Stdout, s.cmd.Stderr = t.Output(), t.Output()
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wait := sync.OnceFunc(func() { _ = s.cmd.Wait() })
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill()
		wait()
		listener.Close()
		if s.conn != nil {
			s.conn.Close()
		}
	})
	return s
}

// charge waits for the next charge, and returns what it says first.
func (s *supervised) charge() report {
	s.t.Helper()
	if err := s.listener.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	if s.conn != nil {
		s.conn.Close()
	}
	conn, err := s.listener.Accept()
	if err != nil {
		s.t.Fatalf("no charge was started: %v", err)
	}
	s.conn, s.in, s.out = conn, json.NewDecoder(conn), json.NewEncoder(conn)
	return s.report()
}

func (s *supervised) report() (r report) {
	s.t.Helper()
	if err := s.in.Decode(&r); err != nil {
		s.t.Fatalf("the charge says nothing: %v", err)
	}
	return r
}

// tell has the charge do something that it does not survive.
func (s *supervised) tell(o order) {
	s.t.Helper()
	if err := s.out.Encode(o); err != nil {
		s.t.Fatal(err)
	}
}

func (s *supervised) do(o order) report {
	s.t.Helper()
	s.tell(o)
	r := s.report()
	if r.Err != "" {
		s.t.Fatalf("%+v: %s", o, r.Err)
	}
	return r
}

// code waits for the supervisor's end.
func (s *supervised) code() int {
	s.t.Helper()
	_ = s.cmd.Wait() // its error is the code
	return s.cmd.ProcessState.ExitCode()
}

// gone waits for the end of a process that is not this one's child.
func gone(t *testing.T, pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("process %d goes on", pid)
		}
	}
}

func TestACrashedChargeIsFollowedByOneThatHasEverything(t *testing.T) {
	s := start(t)
	first := s.charge()
	s.do(order{Do: "put", Name: "a"})
	s.do(order{Do: "put", Name: "b"})
	s.do(order{Do: "put", Name: "c"})
	s.do(order{Do: "update", Name: "b"})
	s.do(order{Do: "remove", Name: "c"})
	child := s.do(order{Do: "orphan"}).Value
	stray := s.do(order{Do: "orphan"}).Value
	s.do(order{Do: "put", Name: "child", N: child})
	for _, end := range []func(report){
		func(r report) { _ = unix.Kill(r.PID, unix.SIGKILL) },
		func(report) { s.tell(order{Do: "crash"}) },
	} {
		end(first)
		first = s.charge()
		want := report{
			PID: first.PID, Kept: map[string]string{"a": "a!", "b": "b?", "child": "child!"},
			PIDs: map[string]int{"a": 0, "b": 0, "child": child},
		}
		if diff := cmp.Diff(want, first); diff != "" {
			t.Error(diff)
		}
		if err := unix.Kill(child, 0); err != nil {
			t.Errorf("the process that was kept: %v", err)
		}
		if err := unix.Kill(stray, 0); err == nil {
			t.Error("a process that was not kept lives on beside the next charge")
		}
	}
	if err := unix.Kill(child, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	gone(t, child)
	if status := unix.WaitStatus(s.do(order{Do: "status", N: child}).Value); status.Signal() != unix.SIGTERM {
		t.Errorf("the process ended with %v", status)
	}
	s.tell(order{Do: "exit", N: 7})
	if code := s.code(); code != 7 {
		t.Errorf("exit code %d, want the charge's 7", code)
	}
}

// What a charge has put before the instruction at which it dies is kept.
func TestWhatWasPutLastIsKept(t *testing.T) {
	s := start(t)
	s.charge()
	s.tell(order{Do: "put and die", Name: "last"})
	if r := s.charge(); r.Kept["last"] != "last" {
		t.Errorf("kept: %v", r.Kept)
	}
}

func TestTheEndOfAProcessIsKnownWhoeverAsksWhenever(t *testing.T) {
	s := start(t)
	s.charge()
	unnamed, named := s.do(order{Do: "orphan"}).Value, s.do(order{Do: "orphan"}).Value
	s.do(order{Do: "put", Name: "named", N: named})
	for _, pid := range []int{unnamed, named} {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		gone(t, pid)
	}
	for _, pid := range []int{unnamed, named} {
		if status := unix.WaitStatus(s.do(order{Do: "status", N: pid}).Value); status.Signal() != unix.SIGTERM {
			t.Errorf("process %d ended with %v", pid, status)
		}
	}
	s.tell(order{Do: "crash"})
	s.charge()
	if status := unix.WaitStatus(s.do(order{Do: "status", N: named}).Value); status.Signal() != unix.SIGTERM {
		t.Errorf("the next charge is told %v", status)
	}
	s.tell(order{Do: "status", N: os.Getpid()})
	if r := s.report(); r.Err == "" {
		t.Error("the end of a stranger that lives is known")
	}
}

func TestCrashesInARowDropWhatIsKeptAndThenTheChargeItself(t *testing.T) {
	s := start(t)
	s.charge()
	child := s.do(order{Do: "orphan"}).Value
	s.do(order{Do: "put", Name: "child", N: child})
	for range 2 {
		s.tell(order{Do: "crash"})
		if r := s.charge(); r.PIDs["child"] != child {
			t.Fatalf("dropped already: %+v", r)
		}
	}
	s.tell(order{Do: "crash"})
	if r := s.charge(); len(r.Kept) > 0 {
		t.Errorf("the fourth charge is given %v", r.Kept)
	}
	if err := unix.Kill(child, 0); err == nil {
		t.Error("the process that was dropped lives on")
	}
	s.tell(order{Do: "crash"})
	if code := s.code(); code != crashed {
		t.Errorf("exit code %d, want the charge's %d", code, crashed)
	}
}

func TestSignalsReachTheChargeAndNoOtherFollows(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			s.charge()
			child := s.do(order{Do: "orphan"}).Value
			s.do(order{Do: "put", Name: "child", N: child})
			if err := s.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if code := s.code(); code != 128+int(signal) {
				t.Errorf("exit code %d", code)
			}
			gone(t, child)
		})
	}
}

func TestTheChargeDoesNotOutliveItsSupervisor(t *testing.T) {
	s := start(t)
	charge := s.charge()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	gone(t, charge.PID)
}
