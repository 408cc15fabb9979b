//go:build integration

package container_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

var execEnv = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "GREETING=moin"}

// shell runs a shell script in a container and returns what it writes.
func (s *server) shell(script string) (string, container.ExitStatus) {
	s.t.Helper()
	out, stdout, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	p, err := s.Exec(s.t.Context(), container.Program{Args: []string{"sh", "-c", script}, Env: execEnv, Dir: "/tmp", Stdout: stdout, Stderr: stdout})
	stdout.Close()
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := io.ReadAll(out)
	if err != nil {
		s.t.Fatal(err)
	}
	<-p.Exited()
	return string(text), p.ExitStatus()
}

// What Exec runs is confined as the container's own program is, in every way that
// the kernel shows.
func TestExecIsSealed(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "exec-sealed", nil)
	status, _ := s.shell("cat /proc/self/status")
	for _, line := range []string{
		"Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534", "Groups:\t ",
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("/proc/self/status lacks %q:\n%s", line, status)
		}
	}
	for what, read := range map[string]struct{ exec, own string }{
		"system call filters": {"grep Seccomp_filters /proc/self/status", `return require("fs").readFileSync("/proc/self/status", "utf8").match(/Seccomp_filters.*\n/)[0]`},
		"control groups":      {"cat /proc/self/cgroup", `return require("fs").readFileSync("/proc/self/cgroup", "utf8")`},
		"mounts":              {"cat /proc/self/mountinfo", `return require("fs").readFileSync("/proc/self/mountinfo", "utf8")`},
		"limits":              {"cat /proc/self/limits", `return require("fs").readFileSync("/proc/self/limits", "utf8")`},
		"oom score":           {"cat /proc/self/oom_score_adj", `return require("fs").readFileSync("/proc/self/oom_score_adj", "utf8")`},
		"user map":            {"cat /proc/self/uid_map", `return require("fs").readFileSync("/proc/self/uid_map", "utf8")`},
	} {
		if got, _ := s.shell(read.exec); got != s.eval(read.own) || got == "" {
			t.Errorf("%s are\n%s\nthe container's own\n%s", what, got, s.eval(read.own))
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		if got, _ := s.shell("readlink /proc/self/ns/" + ns); got != s.eval(`return require("fs").readlinkSync("/proc/self/ns/`+ns+`")`)+"\n" {
			t.Errorf("its %s namespace is %q", ns, got)
		}
	}
	for script, want := range map[string]string{
		"pwd; echo $GREETING":        "/tmp\nmoin\n",
		"ls /proc/self/fd | wc -l":   "4\n", // three, and the folder itself
		"echo x > /x":                "sh: can't create /x: Read-only file system\n",
		"echo written > /dev/stdout": "written\n",
		"cat /dev/stdin | wc -c":     "0\n",
		"kill -9 1; echo $?":         "0\n", // the kernel keeps a first process from its own
		"head -c 19 /proc/1/cmdline": "/usr/local/bin/node",
	} {
		if got, _ := s.shell(script); got != want {
			t.Errorf("%s\n  writes %q, want %q", script, got, want)
		}
	}
	if _, status := s.shell("kill -15 $$"); status.Code != 143 || status.Signal != 15 {
		t.Errorf("ended by a signal: %+v", status)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

func TestExecSaysWhyNot(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "exec-why", nil)
	for _, c := range []struct {
		program container.Program
		why     string
	}{
		{container.Program{Args: []string{"no-such-program"}, Env: execEnv}, `"no-such-program": executable file not found in $PATH`},
		{container.Program{Args: []string{"/etc/passwd"}}, "permission denied"},
		{container.Program{Args: []string{"/no/such"}, Terminal: true}, "no such file or directory"},
		{container.Program{Args: []string{"true"}, Env: execEnv, Dir: "/no/folder"}, "/no/folder"},
	} {
		if p, err := s.Exec(t.Context(), c.program); p != nil || err == nil || !strings.Contains(err.Error(), c.why) || errors.Is(err, container.ErrGone) {
			t.Errorf("%q: %v, %v; want %q", c.program.Args, p, err, c.why)
		}
	}
	if files, err := os.ReadDir(fmt.Sprintf("%s/run/slots/exec-why/bundle", h.workDir)); err != nil || len(files) > 3 {
		t.Errorf("files of the programs are left: %v, %v", files, err)
	}
}

// To kill a program is to kill what it has started; what it leaves behind when it
// ends goes on, and nothing outlives the container.
func TestWhatAProgramStarts(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "exec-family", nil)
	count := func() string {
		got, _ := s.shell("ps -o args | grep -c '^[s]leep 999'")
		return strings.TrimSpace(got)
	}
	until := func(want string) {
		t.Helper()
		for end := time.Now().Add(patience); count() != want; {
			if time.Now().After(end) {
				t.Fatalf("%s are left, want %s", count(), want)
			}
		}
	}
	p, err := s.Exec(t.Context(), container.Program{Args: []string{"sh", "-c", "sleep 999 & sleep 999; true"}, Env: execEnv})
	if err != nil {
		t.Fatal(err)
	}
	until("2")
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.Exited()
	until("0")
	if _, status := s.shell("sleep 999 >/dev/null 2>&1 &"); status.Code != 0 {
		t.Errorf("%+v", status)
	}
	until("1")
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

// With a terminal a shell has job control, Ctrl-C interrupts, and to hang up ends it.
func TestATerminalControls(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "exec-terminal", nil)
	p, err := s.Exec(t.Context(), container.Program{Args: []string{"sh"}, Env: append([]string{"PS1=> "}, execEnv...), Terminal: true})
	if err != nil {
		t.Fatal(err)
	}
	terminal := p.Terminal()
	if err := terminal.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got, b := "", make([]byte, 1000)
	expect := func(want string) {
		t.Helper()
		for !strings.Contains(got, want) {
			n, err := terminal.Read(b)
			if got += string(b[:n]); err != nil {
				t.Fatalf("%q, %v; want %q", got, err, want)
			}
		}
		got = ""
	}
	expect("> ")
	for _, step := range []struct{ say, want string }{
		{"test -t 0 && test -t 1 && echo is a $(tty)\n", "is a /dev/pts/0\r\n> "},
		{"echo asl''eep; sleep 999\n", "asleep\r\n"},
		{"\x03", "^C\r\n> "},
		{"echo $?\n", "130\r\n> "},
	} {
		if _, err := io.WriteString(terminal, step.say); err != nil {
			t.Fatal(err)
		}
		expect(step.want)
	}
	if err := terminal.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-p.Exited():
	case <-time.After(patience):
		t.Error("it goes on without its terminal")
	}
}

// A container that is destroyed while programs start in it goes as quickly, and
// completely.
func TestDestroyWhileProgramsStart(t *testing.T) {
	h := newHost(t)
	for i := range 3 {
		s := h.serve(t, fmt.Sprintf("exec-destroy-%d", i), nil)
		started := make(chan struct{}, 100)
		ended := make(chan error, 1)
		go func() {
			for {
				p, err := s.Exec(context.WithoutCancel(t.Context()), container.Program{Args: []string{"sleep", "999"}, Env: execEnv})
				if err != nil {
					ended <- err
					return
				}
				go func() { <-p.Exited() }()
				started <- struct{}{}
			}
		}()
		for range i + 1 {
			<-started
		}
		if err := s.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, container.ErrGone) {
			t.Errorf("Exec ended with %v; want ErrGone", err)
		}
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

func TestUsageIsWhatTheKernelCounts(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "usage", nil)
	before, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before.CPU < time.Millisecond || before.CPU > time.Minute || before.WorkingSet < 10<<20 || before.WorkingSet > 512<<20 {
		t.Errorf("a booted Node.js uses %+v", before)
	}
	s.eval(`const end = process.cpuUsage().user + 300e3; while (process.cpuUsage().user < end); globalThis.kept = Buffer.alloc(50 << 20, 1)`)
	after, err := s.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cpu := after.CPU - before.CPU; cpu < 250*time.Millisecond || cpu > 10*time.Second {
		t.Errorf("300 ms of work count as %v", cpu)
	}
	if memory := after.WorkingSet - before.WorkingSet; memory < 45<<20 || memory > 200<<20 {
		t.Errorf("50 MiB count as %d", memory)
	}
	all, err := h.cgroups.Usage("")
	if err != nil || all.CPU < after.CPU || all.WorkingSet < after.WorkingSet/2 {
		t.Errorf("all containers use %+v, %v; this one %+v", all, err, after)
	}
}
