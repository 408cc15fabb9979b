package containertest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

// Programs that the suite runs in running containers, with Exec.
const (
	// ExecExit7 writes "out\n" and "err\n" and ends with status 7.
	ExecExit7 = "exec-exit7"
	// ExecCopy copies its input to its output until end of file, then ends with
	// status 0.
	ExecCopy = "exec-copy"
	// ExecSize writes the size of its terminal, "columns x rows\n", for each line
	// that it reads.
	ExecSize = "exec-size"
)

// program is one of the programs for Exec, without files.
func (s *suite) program(name string) container.Program {
	return container.Program{Args: s.Args(name), Env: s.ExecEnv}
}

// exec runs a program in a container. The test's ends of its pipes are closed by the
// test's end.
func (s *suite) exec(c container.Container, name string) (p container.Process, stdin io.WriteCloser, stdout, stderr io.Reader) {
	s.t.Helper()
	program := s.program(name)
	pipe := func() (read, write *os.File) {
		read, write, err := os.Pipe()
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { read.Close(); write.Close() })
		return read, write
	}
	var in, out, errs *os.File
	program.Stdin, in = pipe()
	out, program.Stdout = pipe()
	errs, program.Stderr = pipe()
	p, err := c.Exec(s.t.Context(), program)
	if err != nil {
		s.t.Fatalf("Exec(%s): %v", name, err)
	}
	for _, f := range []*os.File{program.Stdin, program.Stdout, program.Stderr} {
		f.Close()
	}
	return p, in, out, errs
}

func (s *suite) awaitEnd(p container.Process) container.ExitStatus {
	s.t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(patience):
		s.t.Fatal("the program does not end")
	}
	return p.ExitStatus()
}

func execRuns(t *testing.T, s *suite) {
	c := s.startSpoken("exec")
	p, _, stdout, stderr := s.exec(c, ExecExit7)
	if p.Terminal() != nil {
		t.Error("it has a terminal that nobody asked for")
	}
	for want, r := range map[string]io.Reader{"out\n": stdout, "err\n": stderr} {
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("it wrote %q, %v; want %q", got, err, want)
		}
	}
	if status := s.awaitEnd(p); status != (container.ExitStatus{Code: 7}) {
		t.Errorf("it ended with %+v", status)
	}
	if err := p.Kill(); err != nil {
		t.Errorf("Kill of what has ended: %v", err)
	}
	if err := p.Resize(80, 24); !errors.Is(err, container.ErrInvalid) {
		t.Errorf("Resize without a terminal: %v; want an ErrInvalid", err)
	}

	p, stdin, stdout, _ := s.exec(c, ExecCopy)
	sent := strings.Repeat("0123456789", 100_000)
	go func() {
		_, _ = io.WriteString(stdin, sent)
		stdin.Close()
	}()
	if got, err := io.ReadAll(stdout); err != nil || string(got) != sent {
		t.Errorf("%d bytes came back, %v; want the %d that were sent", len(got), err, len(sent))
	}
	if status := s.awaitEnd(p); status != (container.ExitStatus{}) {
		t.Errorf("it ended with %+v", status)
	}
	// Without files it reads and writes nothing.
	p, err := c.Exec(t.Context(), s.program(ExecCopy))
	if err != nil {
		t.Fatal(err)
	}
	s.awaitEnd(p)
	if !running(c) {
		t.Error("the container has ended with its programs")
	}
	s.destroy(c)
}

func execChecks(t *testing.T, s *suite) {
	c := s.startSpoken("exec-checks")
	for name, p := range map[string]container.Program{
		"no program":      {},
		"empty name":      {Args: []string{""}},
		"NUL":             {Args: []string{"a\x00b"}},
		"NUL in Env":      {Args: s.Args(ExecCopy), Env: []string{"A=\x00"}},
		"relative folder": {Args: s.Args(ExecCopy), Dir: "tmp"},
		"both":            {Args: s.Args(ExecCopy), Terminal: true, Stdin: os.Stdin},
	} {
		if _, err := c.Exec(t.Context(), p); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("%s: %v; want an ErrInvalid", name, err)
		}
	}
	s.destroy(c)
}

func execTerminal(t *testing.T, s *suite) {
	c := s.startSpoken("exec-terminal")
	program := s.program(ExecSize)
	program.Terminal = true
	p, err := c.Exec(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	terminal := p.Terminal()
	if terminal == nil {
		t.Fatal("it has no terminal")
	}
	defer terminal.Close()
	if err := terminal.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	for _, size := range [][2]uint16{{80, 24}, {132, 50}} {
		if err := p.Resize(size[0], size[1]); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(terminal, "?\n"); err != nil {
			t.Fatal(err)
		}
		// A terminal repeats what is typed, and ends lines as typewriters do.
		want, got := fmt.Sprintf("%d x %d\r\n", size[0], size[1]), ""
		for b := make([]byte, 100); !strings.HasSuffix(got, want); {
			n, err := terminal.Read(b)
			if got += string(b[:n]); err != nil {
				t.Fatalf("%q, %v; want %q", got, err, want)
			}
		}
	}
	if err := p.Kill(); err != nil {
		t.Error(err)
	}
	s.awaitEnd(p)
	s.destroy(c)
}

func execEnds(t *testing.T, s *suite) {
	c := s.startSpoken("exec-ends")
	p, _, stdout, _ := s.exec(c, ExecCopy)
	s.destroy(c)
	if status := s.awaitEnd(p); status.Signal != syscall.SIGKILL || status.Code != 137 {
		t.Errorf("it ended with %+v", status)
	}
	if rest, err := io.ReadAll(stdout); err != nil || len(rest) > 0 {
		t.Errorf("its output: %q, %v", rest, err)
	}
}

func execKill(t *testing.T, s *suite) {
	c := s.startSpoken("exec-kill")
	p, _, stdout, _ := s.exec(c, ExecCopy)
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if status := s.awaitEnd(p); status.Signal != syscall.SIGKILL {
		t.Errorf("it ended with %+v", status)
	}
	if _, err := io.ReadAll(stdout); err != nil {
		t.Error(err)
	}
	if !running(c) {
		t.Error("the container has ended with the program")
	}
	s.destroy(c)
}

func usageUntilDestroy(t *testing.T, s *suite) {
	c := s.start("usage", Exit3)
	s.awaitExit(c)
	if _, err := c.Usage(t.Context()); err != nil {
		t.Errorf("Usage of a container that has ended: %v; want what it used", err)
	}
	s.destroy(c)
	if _, err := c.Usage(t.Context()); !errors.Is(err, container.ErrGone) {
		t.Errorf("Usage of a destroyed container: %v; want ErrGone", err)
	}
}
