package containertest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Fault is how a StandIn misbehaves, in place of making a container or after it
// has.
type Fault struct {
	// After is how far the real runtime comes before: not at all, to the end of
	// its create, or of its run.
	After Progress
	// Then is what follows.
	Then Misdeed
	// Delay is what KillReal waits for.
	Delay time.Duration
	// PidFile is what Rubbish writes.
	PidFile string
}

// Progress is how far the real runtime comes.
type Progress string

// Misdeed is what a StandIn does then.
type Misdeed string

// What a Fault is made of.
const (
	Nothing Progress = "nothing"
	Created Progress = "created"
	Started Progress = "started"

	// Fail logs an error, Reason, and exits with status 1.
	Fail Misdeed = "fail"
	// Hang goes on until it is killed.
	Hang Misdeed = "hang"
	// Die is what SIGKILL to the runtime looks like.
	Die Misdeed = "die"
	// KillReal starts the real runtime, kills it after Delay, and dies.
	KillReal Misdeed = "kill the real one"
	// KillAgent kills the process that has started it, and hangs.
	KillAgent Misdeed = "kill the agent"
	// Rubbish fills the log and the pid file and exits with status 0.
	Rubbish Misdeed = "rubbish"
	// EndProgram kills the container's program and exits with status 0.
	EndProgram Misdeed = "end the program"
)

// Reason is what a StandIn that fails logs.
const Reason = "the stand-in was told to fail"

// StandIn is an OCI runtime that does what a real one does, until a test wants
// it to misbehave. It is the test's own binary under another name: TestMain must
// begin with RunStandIn.
type StandIn struct {
	// Binary is what to run.
	Binary string
	dir    string
}

// plan is what a StandIn's process is to do.
type plan struct {
	Real  string
	Fault *Fault // nil: what the real one does
	Times int    // how many more times
}

const standInName = "oci-runtime-stand-in"

// standInDir is the environment variable that says where the plan is: the runtime
// may be run from another path than Binary.
const standInDir = "SANFRAN_TEST_STAND_IN"

// NewStandIn makes a stand-in for the runtime real, in a folder of the test. It
// takes the place of those that the test has made before.
func NewStandIn(t testing.TB, real string) *StandIn {
	t.Helper()
	real, err := exec.LookPath(real)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &StandIn{Binary: filepath.Join(dir, standInName), dir: dir}
	if err := os.Symlink(self, s.Binary); err != nil {
		t.Fatal(err)
	}
	s.write(t, plan{Real: real})
	t.Setenv(standInDir, dir)
	t.Setenv("GORACE", "atexit_sleep_ms=0") // it is built like the test, which waits for a second at its end
	return s
}

// Misbehave orders a fault for the next so many starts.
func (s *StandIn) Misbehave(t testing.TB, f Fault, times int) {
	t.Helper()
	p, err := readPlan(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Fault, p.Times = &f, times
	s.write(t, p)
}

// Left is how many of the ordered faults have not come yet.
func (s *StandIn) Left(t testing.TB) int {
	t.Helper()
	p, err := readPlan(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	return p.Times
}

func (s *StandIn) write(t testing.TB, p plan) {
	t.Helper()
	if err := writePlan(s.dir, p); err != nil {
		t.Fatal(err)
	}
}

func planFile(dir string) string { return filepath.Join(dir, "plan.json") }

func readPlan(dir string) (p plan, err error) {
	data, err := os.ReadFile(planFile(dir))
	if err != nil {
		return p, err
	}
	return p, json.Unmarshal(data, &p)
}

func writePlan(dir string, p plan) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	partial := filepath.Join(dir, fmt.Sprintf("plan.%d", os.Getpid()))
	if err := os.WriteFile(partial, data, 0o600); err != nil {
		return err
	}
	return os.Rename(partial, planFile(dir))
}

// RunStandIn returns unless the process was started as a StandIn. Then it does
// what that is to do, and exits.
func RunStandIn() {
	if filepath.Base(os.Args[0]) != standInName {
		return
	}
	status, err := standIn(os.Getenv(standInDir), os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "the stand-in of the OCI runtime:", err)
		status = 3
	}
	os.Exit(status)
}

func standIn(dir string, args []string) (status int, err error) {
	if !slices.Contains(args, "run") { // no start, such as the question for its version
		p, err := readPlan(dir)
		if err != nil {
			return 0, err
		}
		return runReal(p.Real, args)
	}
	p, err := takeFault(dir)
	if err != nil {
		return 0, err
	}
	if p.Fault == nil {
		return runReal(p.Real, args)
	}
	switch p.Fault.After {
	case Created:
		status, err = runReal(p.Real, createArgs(args))
	case Started:
		status, err = runReal(p.Real, args)
	}
	if err != nil || status != 0 {
		return status, err
	}
	switch p.Fault.Then {
	case Fail:
		return 1, os.WriteFile(option(args, "--log"), fmt.Appendf(nil, "{\"level\":\"error\",\"msg\":%q}\n", Reason), 0o600)
	case Hang:
		time.Sleep(time.Hour) // its start is given up before
	case Die:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case KillReal:
		cmd := realCommand(p.Real, args)
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		time.Sleep(p.Fault.Delay)
		_ = cmd.Process.Kill()
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case KillAgent:
		_ = syscall.Kill(os.Getppid(), syscall.SIGKILL)
		time.Sleep(time.Hour) // until the pod has ended
	case Rubbish:
		if err := os.WriteFile(option(args, "--log"), []byte("\x00{\"level\":\n}{\xff"), 0o600); err != nil {
			return 0, err
		}
		return 0, os.WriteFile(option(args, "--pid-file"), []byte(p.Fault.PidFile), 0o600)
	case EndProgram:
		pid, err := os.ReadFile(option(args, "--pid-file"))
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
		if err != nil {
			return 0, err
		}
		return 0, syscall.Kill(n, syscall.SIGKILL)
	}
	return 0, fmt.Errorf("the fault %+v is none", p.Fault)
}

// takeFault returns the plan and counts its fault as come. Several processes may
// ask at once.
func takeFault(dir string) (plan, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return plan{}, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return plan{}, err
	}
	p, err := readPlan(dir)
	if err != nil {
		return plan{}, err
	}
	if p.Times == 0 {
		p.Fault = nil
		return p, nil
	}
	now := p
	p.Times--
	return now, writePlan(dir, p)
}

// createArgs makes a create of a run: the container is made, and its program
// not started.
func createArgs(args []string) []string {
	args = slices.Clone(args)
	args[slices.Index(args, "run")] = "create"
	return slices.DeleteFunc(args, func(a string) bool { return a == "--detach" })
}

// option is the value of an option on a command line.
func option(args []string, name string) string { return args[slices.Index(args, name)+1] }

func runReal(binary string, args []string) (status int, err error) {
	cmd := realCommand(binary, args)
	err = cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.Exited() {
		return cmd.ProcessState.ExitCode(), nil
	}
	return 0, err
}

// realCommand passes on what the stand-in was given.
func realCommand(binary string, args []string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if !slices.Contains(args, "--preserve-fds") {
		return cmd
	}
	inherited, err := strconv.Atoi(option(args, "--preserve-fds"))
	if err != nil {
		panic(err)
	}
	for fd := range inherited {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(3+fd), "inherited"))
	}
	return cmd
}
