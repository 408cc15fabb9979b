//go:build integration

package container_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
)

// faults are what an OCI runtime may do wrong, and what Start says then.
var faults = map[string]struct {
	fault containertest.Fault
	want  string
}{
	"fails before anything":         {containertest.Fault{After: containertest.Nothing, Then: containertest.Fail}, containertest.Reason},
	"fails once it has created":     {containertest.Fault{After: containertest.Created, Then: containertest.Fail}, containertest.Reason},
	"fails once it has started":     {containertest.Fault{After: containertest.Started, Then: containertest.Fail}, containertest.Reason},
	"hangs before anything":         {containertest.Fault{After: containertest.Nothing, Then: containertest.Hang}, "gave up after"},
	"hangs once it has created":     {containertest.Fault{After: containertest.Created, Then: containertest.Hang}, "gave up after"},
	"hangs once it has started":     {containertest.Fault{After: containertest.Started, Then: containertest.Hang}, "gave up after"},
	"is killed before anything":     {containertest.Fault{After: containertest.Nothing, Then: containertest.Die}, "was killed"},
	"is killed once it has created": {containertest.Fault{After: containertest.Created, Then: containertest.Die}, "was killed"},
	"is killed once it has started": {containertest.Fault{After: containertest.Started, Then: containertest.Die}, "was killed"},
	"writes no pid":                 {containertest.Fault{After: containertest.Nothing, Then: containertest.Rubbish}, `pid file holds ""`},
	"writes rubbish":                {containertest.Fault{After: containertest.Nothing, Then: containertest.Rubbish, PidFile: "\x00nonsense"}, "nonsense"},
	"writes rubbish when started":   {containertest.Fault{After: containertest.Started, Then: containertest.Rubbish, PidFile: "nonsense"}, "nonsense"},
	"names a process that is none":  {containertest.Fault{After: containertest.Nothing, Then: containertest.Rubbish, PidFile: "4194303"}, "no such process"},
}

// misbehaving makes a host whose OCI runtime is a stand-in.
func misbehaving(t *testing.T, h *host) *containertest.StandIn {
	t.Helper()
	runtime := containertest.NewStandIn(t, h.binary)
	if err := h.runc.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.runc, err = container.NewRunc(container.RuncOptions{
		Binary: runtime.Binary, WorkDir: h.workDir, Cgroups: h.cgroups, StartTimeout: 3 * time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	return runtime
}

// idle starts a container that does nothing.
func (h *host) idle(t *testing.T, id string) (container.Container, error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return h.runc.Start(t.Context(), container.Config{
		ID: id, RootFS: rootFS(t), Listener: file, Control: file, Args: node(`setInterval(() => {}, 1e9)`),
	})
}

// cleanAndWell fails if a start that failed has left something, or keeps the next
// from succeeding.
func (h *host) cleanAndWell(t *testing.T, id string) {
	t.Helper()
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
	if n := h.runc.HostIDsInUse(); n > 0 {
		t.Errorf("%d ranges of user ids are in use", n)
	}
	c, err := h.idle(t, id)
	if err != nil {
		t.Fatalf("the next start: %v", err)
	}
	if err := c.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever the OCI runtime does, Start says why and leaves nothing.
func TestStartUndoesWhatABrokenRuntimeLeft(t *testing.T) {
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			eachRuntime(t, func(t *testing.T, h *host) {
				runtime := misbehaving(t, h)
				runtime.Misbehave(t, f.fault, 1)
				c, err := h.idle(t, "broken")
				if err == nil || !strings.Contains(err.Error(), f.want) {
					t.Errorf("Start: %v, %v; want %q in the error", c, err, f.want)
				}
				if n := runtime.Left(t); n != 0 {
					t.Error("the runtime was not asked")
				}
				h.cleanAndWell(t, "broken")
			})
		})
	}
}

// A pid file that names somebody else's process is not believed: nobody is
// killed for it.
func TestStartAdoptsNoStranger(t *testing.T) {
	h := newHost(t)
	runtime := misbehaving(t, h)
	for name, pid := range map[string]int{"the agent": os.Getpid(), "its parent": os.Getppid()} {
		runtime.Misbehave(t, containertest.Fault{After: containertest.Nothing, Then: containertest.Rubbish, PidFile: fmt.Sprint(pid)}, 1)
		if c, err := h.idle(t, "stranger"); err == nil || !strings.Contains(err.Error(), "no child of the agent") {
			t.Errorf("%s in the pid file: %v, %v", name, c, err)
		}
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.cleanAndWell(t, "stranger")
}

// A program that is dead when its runtime reports success has ended by itself.
func TestTheRuntimeReportsADeadProgram(t *testing.T) {
	eachRuntime(t, func(t *testing.T, h *host) {
		misbehaving(t, h).Misbehave(t, containertest.Fault{After: containertest.Started, Then: containertest.EndProgram}, 1)
		c, err := h.idle(t, "dead")
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-c.Exited():
		case <-time.After(patience):
			t.Fatal("it lives")
		}
		if status := c.ExitStatus(); status.Signal != syscall.SIGKILL || status.OOMKilled {
			t.Errorf("ended with %v", status)
		}
		if err := c.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		h.cleanAndWell(t, "dead")
	})
}

// The runtime is killed at moments all over its work.
func TestTheRuntimeIsKilledInTheMiddle(t *testing.T) {
	eachRuntime(t, func(t *testing.T, h *host) {
		runtime := misbehaving(t, h)
		for ms := range 30 {
			runtime.Misbehave(t, containertest.Fault{After: containertest.Nothing, Then: containertest.KillReal, Delay: time.Duration(2*ms) * time.Millisecond}, 1)
			if c, err := h.idle(t, "killed"); err == nil {
				_ = c.Destroy(context.WithoutCancel(t.Context()))
				t.Errorf("killed after %d ms: it started", 2*ms)
			}
			if left := h.left(); len(left) > 0 {
				t.Fatalf("killed after %d ms, left on the host: %q", 2*ms, left)
			}
		}
		h.cleanAndWell(t, "killed")
	})
}
