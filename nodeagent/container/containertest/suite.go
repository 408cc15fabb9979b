package containertest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

// Programs that the suite runs in containers.
const (
	// Idle does nothing until it is killed.
	Idle = "idle"
	// Exit3 ends at once with status 3.
	Exit3 = "exit3"
	// Exit0OnEOF ends with status 0 when its control file reads end of file.
	Exit0OnEOF = "exit0-on-eof"
	// Speaks writes a byte to its control file, and does nothing until it is killed.
	Speaks = "speaks"
)

// Subject is a Runtime under test.
type Subject struct {
	Runtime container.Runtime
	// RootFS is the root of the containers.
	RootFS string
	// Args is the command line of one of the programs above.
	Args func(program string) []string
	// ExecEnv is the environment of programs that are run with Exec.
	ExecEnv []string
	// Left returns what the runtime has left on the host, nil for nothing. It
	// is asked when no container should be alive.
	Left func() []string
}

// patience is how long the suite waits for what should come. It is no
// measure: a loaded machine needs seconds to boot a container.
const patience = 30 * time.Second

// Suite tests that a Runtime keeps the promises of its interface. New is
// called once per test.
func Suite(t *testing.T, New func(t *testing.T) Subject) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, s *suite)
	}{
		{"StartRefusesInvalidConfig", refusesInvalidConfig},
		{"StartUndoesAFailure", undoesAFailure},
		{"StartHeedsACancelledContext", heedsCancel},
		{"IDsAreUniqueUntilDestroy", uniqueIDs},
		{"RunsUntilDestroyed", runsUntilDestroyed},
		{"ReportsTheExitCode", reportsExitCode},
		{"TheCallerKeepsItsFiles", callerKeepsFiles},
		{"DestroyIsIdempotentAndConcurrent", destroyTwice},
		{"DestroyFinishesUnderACancelledContext", destroyCancelled},
		{"MountChecksItsArguments", mountChecks},
		{"SetResourcesChecksItsArguments", resourcesCheck},
		{"SetHostnameChecksItsArgument", hostnameCheck},
		{"SIGKILLEnds", killEnds},
		{"ExecRunsAProgram", execRuns},
		{"ExecChecksItsArguments", execChecks},
		{"ExecGivesATerminal", execTerminal},
		{"ProgramsEndWithTheirContainer", execEnds},
		{"KillEndsAProgram", execKill},
		{"UsageIsKnownUntilDestroy", usageUntilDestroy},
		{"NothingCanBeDoneToWhatIsGone", goneIsGone},
		{"ManyAtOnce", manyAtOnce},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &suite{Subject: New(t), t: t}
			test.run(t, s)
			if left := s.Left(); len(left) > 0 {
				t.Errorf("left on the host:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

type suite struct {
	Subject
	t *testing.T
}

func refusesInvalidConfig(t *testing.T, s *suite) {
	for name, spoil := range map[string]func(*container.Config){
		"empty id":            func(c *container.Config) { c.ID = "" },
		"id that climbs":      func(c *container.Config) { c.ID = "../x" },
		"relative root":       func(c *container.Config) { c.RootFS = "rootfs" },
		"no listener":         func(c *container.Config) { c.Listener = nil },
		"no control":          func(c *container.Config) { c.Control = nil },
		"no program":          func(c *container.Config) { c.Args = nil },
		"relative program":    func(c *container.Config) { c.Args = []string{"node"} },
		"relative netns":      func(c *container.Config) { c.NetNS = "netns/x" },
		"negative memory":     func(c *container.Config) { c.Resources.MemoryBytes = -1 },
		"too small cpu limit": func(c *container.Config) { c.Resources.MilliCPU = 1 },
	} {
		cfg, _ := s.config("invalid", Idle)
		spoil(&cfg)
		if c, err := s.Runtime.Start(t.Context(), cfg); !errors.Is(err, container.ErrInvalid) || c != nil {
			t.Errorf("%s: Start = %v, %v; want an ErrInvalid", name, c, err)
		}
	}
}

func undoesAFailure(t *testing.T, s *suite) {
	cfg, _ := s.config("failing", Idle)
	cfg.RootFS = filepath.Join(t.TempDir(), "missing")
	if _, err := s.Runtime.Start(t.Context(), cfg); err == nil {
		t.Error("Start with a missing root filesystem succeeded")
	}
	if left := s.Left(); len(left) > 0 {
		t.Errorf("left after a failed start: %q", left)
	}
	cfg.RootFS = s.RootFS
	c, err := s.Runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("the same id after a failed start: %v", err)
	}
	s.destroy(c)
}

func heedsCancel(t *testing.T, s *suite) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	cfg, _ := s.config("cancelled", Idle)
	if _, err := s.Runtime.Start(ctx, cfg); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a cancelled context: %v", err)
	}
}

func uniqueIDs(t *testing.T, s *suite) {
	first := s.start("twin", Idle)
	cfg, _ := s.config("twin", Idle)
	if _, err := s.Runtime.Start(t.Context(), cfg); !errors.Is(err, container.ErrExists) {
		t.Errorf("second Start with the same id: %v; want ErrExists", err)
	}
	if !running(first) {
		t.Error("the refused start has ended the first container")
	}
	s.destroy(first)
	s.destroy(s.start("twin", Idle))
}

func runsUntilDestroyed(t *testing.T, s *suite) {
	c := s.start("idle", Idle)
	if c.ID() != "idle" {
		t.Errorf("ID = %q", c.ID())
	}
	if !running(c) || c.ExitStatus() != (container.ExitStatus{}) {
		t.Errorf("ended by itself: %v", c.ExitStatus())
	}
	s.destroy(c)
	if st := c.ExitStatus(); st.Signal != syscall.SIGKILL || st.Code != 137 || st.OOMKilled {
		t.Errorf("ExitStatus after Destroy = %+v", st)
	}
}

func reportsExitCode(t *testing.T, s *suite) {
	c := s.start("three", Exit3)
	if st := s.awaitExit(c); st != (container.ExitStatus{Code: 3}) {
		t.Errorf("ExitStatus = %+v, want code 3", st)
	}
	s.destroy(c)
	if st := c.ExitStatus(); st != (container.ExitStatus{Code: 3}) {
		t.Errorf("ExitStatus after Destroy = %+v, want code 3", st)
	}
}

func callerKeepsFiles(t *testing.T, s *suite) {
	cfg, peer := s.config("files", Exit0OnEOF)
	c, err := s.Runtime.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cfg.Listener.Stat(); err != nil {
		t.Errorf("Start has closed the caller's listener: %v", err)
	}
	if err := cfg.Control.Close(); err != nil {
		t.Errorf("Start has closed the caller's control file: %v", err)
	}
	if !running(c) {
		t.Errorf("the container's control file was closed with the caller's: %v", c.ExitStatus())
	}
	if err := peer.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if st := s.awaitExit(c); st.Code != 0 {
		t.Errorf("ExitStatus = %+v", st)
	}
	if err := peer.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(peer); err != nil {
		t.Errorf("the control socket does not end with the container: %v", err)
	}
	s.destroy(c)
}

func destroyTwice(t *testing.T, s *suite) {
	c := s.start("twice", Idle)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := c.Destroy(t.Context()); err != nil {
				t.Errorf("concurrent Destroy: %v", err)
			}
		})
	}
	all.Wait()
	s.destroy(c)
}

func destroyCancelled(t *testing.T, s *suite) {
	c := s.start("cancelled", Idle)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Destroy(ctx); err != nil {
		t.Errorf("Destroy with a cancelled context: %v", err)
	}
}

func mountChecks(t *testing.T, s *suite) {
	c := s.start("mounts", Idle)
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, m := range []container.Mount{
		{Source: dir, Target: "function"},
		{Source: dir, Target: "/"},
		{Source: dir, Target: "/a/../b"},
		{Source: "relative", Target: "/function"},
		{Source: link, Target: "/function"},
		{Source: "/dev/null", Target: "/function"},
	} {
		if err := c.Mount(t.Context(), m); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("Mount(%+v) = %v; want an ErrInvalid", m, err)
		}
	}
	if err := c.Mount(t.Context(), container.Mount{Source: filepath.Join(dir, "missing"), Target: "/function"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Mount of a missing source: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, m := range []container.Mount{
		{Source: dir, Target: "/function", ReadOnly: true},
		{Source: dir, Target: "/deep/in/the/tree"},
		{Source: file, Target: "/etc/made-for-this", ReadOnly: true},
	} {
		if err := c.Mount(t.Context(), m); err != nil {
			t.Errorf("Mount(%+v): %v", m, err)
		}
	}
	if err := c.Unmount(t.Context(), "/function"); err != nil {
		t.Errorf("Unmount: %v", err)
	}
	if err := c.Unmount(t.Context(), "/function"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("Unmount of what is not mounted any more: %v; want EINVAL", err)
	}
	if n, err := c.MemoryInUse(t.Context()); err != nil || n < 0 || n > 1<<30 {
		t.Errorf("MemoryInUse = %d, %v", n, err)
	}
	s.destroy(c)
	if _, err := os.Stat(file); err != nil {
		t.Errorf("what was mounted is gone with the container: %v", err)
	}
}

func resourcesCheck(t *testing.T, s *suite) {
	c := s.start("limits", Idle)
	for _, r := range []container.Resources{{MilliCPU: -1}, {MilliCPU: 1}, {MemoryBytes: -1}, {MemoryBytes: 4096}} {
		if err := c.SetResources(t.Context(), r); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("SetResources(%+v) = %v; want an ErrInvalid", r, err)
		}
	}
	for _, r := range []container.Resources{
		{}, {MilliCPU: 500}, {MemoryBytes: 512 << 20}, {MilliCPU: 1500, MemoryBytes: 256 << 20}, {MemoryBytes: 1 << 30},
	} {
		if err := c.SetResources(t.Context(), r); err != nil {
			t.Errorf("SetResources(%+v): %v", r, err)
		}
	}
	s.destroy(c)
}

func hostnameCheck(t *testing.T, s *suite) {
	c := s.start("named", Idle)
	for _, name := range []string{"", strings.Repeat("x", 65)} {
		if err := c.SetHostname(t.Context(), name); !errors.Is(err, container.ErrInvalid) {
			t.Errorf("SetHostname(%q) = %v; want an ErrInvalid", name, err)
		}
	}
	for _, name := range []string{"a", strings.Repeat("x", 64)} {
		if err := c.SetHostname(t.Context(), name); err != nil {
			t.Errorf("SetHostname(%q): %v", name, err)
		}
	}
	s.destroy(c)
}

func killEnds(t *testing.T, s *suite) {
	c := s.start("killed", Idle)
	if err := c.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Errorf("Signal(SIGKILL): %v", err)
	}
	if status := s.awaitExit(c); status.Code != 137 || status.Signal != syscall.SIGKILL || status.OOMKilled {
		t.Errorf("it ended with %+v", status)
	}
	s.destroy(c)
}

func goneIsGone(t *testing.T, s *suite) {
	ended := s.start("ended", Exit3)
	s.awaitExit(ended)
	destroyed := s.start("destroyed", Idle)
	s.destroy(destroyed)
	dir := t.TempDir()
	for _, c := range []container.Container{ended, destroyed} {
		if err := c.Mount(t.Context(), container.Mount{Source: dir, Target: "/function"}); !errors.Is(err, container.ErrGone) {
			t.Errorf("Mount in the %s container: %v; want ErrGone", c.ID(), err)
		}
		if err := c.Unmount(t.Context(), "/function"); !errors.Is(err, container.ErrGone) {
			t.Errorf("Unmount in the %s container: %v; want ErrGone", c.ID(), err)
		}
		if _, err := c.MemoryInUse(t.Context()); !errors.Is(err, container.ErrGone) {
			t.Errorf("MemoryInUse of the %s container: %v; want ErrGone", c.ID(), err)
		}
		if _, err := c.Exec(t.Context(), s.program(ExecCopy)); !errors.Is(err, container.ErrGone) {
			t.Errorf("Exec in the %s container: %v; want ErrGone", c.ID(), err)
		}
		if err := c.SetResources(t.Context(), container.Resources{MilliCPU: 500}); !errors.Is(err, container.ErrGone) {
			t.Errorf("SetResources of the %s container: %v; want ErrGone", c.ID(), err)
		}
		if err := c.Signal(t.Context(), syscall.SIGKILL); !errors.Is(err, container.ErrGone) {
			t.Errorf("Signal to the %s container: %v; want ErrGone", c.ID(), err)
		}
		if err := c.SetHostname(t.Context(), "late"); !errors.Is(err, container.ErrGone) {
			t.Errorf("SetHostname of the %s container: %v; want ErrGone", c.ID(), err)
		}
	}
	s.destroy(ended)
}

func manyAtOnce(t *testing.T, s *suite) {
	var all sync.WaitGroup
	for _, id := range []string{"a", "b", "c", "d"} {
		cfg, _ := s.config(id, Idle)
		all.Go(func() {
			c, err := s.Runtime.Start(t.Context(), cfg)
			if err != nil {
				t.Errorf("Start: %v", err)
				return
			}
			if err := c.Mount(t.Context(), container.Mount{Source: "/etc", Target: "/function", ReadOnly: true}); err != nil {
				t.Errorf("Mount: %v", err)
			}
			if err := c.Destroy(t.Context()); err != nil {
				t.Errorf("Destroy: %v", err)
			}
		})
	}
	all.Wait()
}
