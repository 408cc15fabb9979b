package containertest

import (
	"context"
	"net"
	"os"
	"syscall"
	"time"

	"sanfran.dev/nodeagent/container"
)

// config returns a configuration and the test's end of its control socket.
// Config's own files are closed by the test's end, or earlier by the test.
func (s *suite) config(id, program string) (container.Config, *net.UnixConn) {
	s.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	defer ln.Close()
	listener, err := ln.(*net.TCPListener).File()
	if err != nil {
		s.t.Fatal(err)
	}
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	theirs, mine := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control peer")
	defer mine.Close()
	peer, err := net.FileConn(mine)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { listener.Close(); theirs.Close(); peer.Close() })
	return container.Config{
		ID: id, RootFS: s.RootFS, Listener: listener, Control: theirs,
		Args: s.Args(program), Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"},
	}, peer.(*net.UnixConn)
}

func (s *suite) start(id, program string) container.Container {
	s.t.Helper()
	c, _ := s.startHeard(id, program)
	return c
}

// startHeard is start, with the test's end of the container's control socket.
func (s *suite) startHeard(id, program string) (container.Container, *net.UnixConn) {
	s.t.Helper()
	cfg, control := s.config(id, program)
	c, err := s.Runtime.Start(s.t.Context(), cfg)
	if err != nil {
		s.t.Fatalf("Start(%s): %v", program, err)
	}
	s.t.Cleanup(func() { _ = c.Destroy(context.WithoutCancel(s.t.Context())) })
	return c, control
}

// startSpoken starts a container and waits until its program runs.
func (s *suite) startSpoken(id string) container.Container {
	s.t.Helper()
	c, control := s.startHeard(id, Speaks)
	if err := control.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := control.Read(make([]byte, 1)); err != nil {
		s.t.Fatalf("the program of container %s does not speak: %v", id, err)
	}
	return c
}

func (s *suite) destroy(c container.Container) {
	s.t.Helper()
	if err := c.Destroy(s.t.Context()); err != nil {
		s.t.Errorf("Destroy: %v", err)
	}
	select {
	case <-c.Exited():
	default:
		s.t.Error("Destroy has returned and Exited is open")
	}
}

func (s *suite) awaitExit(c container.Container) container.ExitStatus {
	s.t.Helper()
	select {
	case <-c.Exited():
	case <-time.After(patience):
		s.t.Fatalf("container %s does not end", c.ID())
	}
	return c.ExitStatus()
}

func running(c container.Container) bool {
	select {
	case <-c.Exited():
		return false
	default:
		return true
	}
}
