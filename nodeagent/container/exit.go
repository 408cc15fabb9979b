package container

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// initProcess is the first process of a container: when it ends, the kernel
// has killed all others of its pid namespace.
type initProcess struct {
	pid int
	// fd is a pidfd, watched by Go's poller: waiting costs a goroutine and no
	// thread. It is nil if the process had ended before it could be opened.
	fd *os.File
	// parent knows how it ended.
	parent Parent

	mu    sync.Mutex // so that nothing is sent through a pidfd given back
	ended bool
}

// openInit opens the process with this pid, a child of parent. If that is the
// agent itself, the process is alive or a zombie, and the pid is its own. Another
// parent may have waited for it: then the pid may be somebody else's by now, and
// the process is the container's only if it runs as uid, which no process of
// another container alive has.
func openInit(pid int, uid uint32, parent Parent) (*initProcess, error) {
	gone := &initProcess{pid: pid, parent: parent, ended: true}
	_, own := parent.(ownChildren)
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) && !own {
		return gone, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the container's first process, by the OCI runtime's pid file %d: %w", pid, err)
	}
	var ended unix.Siginfo
	if own {
		if err := unix.Waitid(unix.P_PIDFD, fd, &ended, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("process %d, by the OCI runtime's pid file the container's first, is no child of the agent: %w", pid, err), unix.Close(fd))
		}
	}
	// It is looked at by its pid: what is seen is the opened process only if that
	// still lives afterwards.
	if !own && (!runsAs(pid, uid) || hasEnded(fd)) {
		return gone, unix.Close(fd)
	}
	return &initProcess{pid: pid, fd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid)), parent: parent}, nil
}

// runsAs reports whether a process has the real user id.
func runsAs(pid int, uid uint32) bool {
	user, err := child{pid: pid}.user()
	return err == nil && user == uid
}

// hasEnded reports whether the process of a pidfd has.
func hasEnded(pidfd int) bool {
	look := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(look, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// signal sends a signal; it is no error if the process has ended.
func (p *initProcess) signal(signal unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return fmt.Errorf("send process %d %s: %w", p.pid, unix.SignalName(signal), err)
	}
	var sendErr error
	err = conn.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), signal, nil, 0) })
	if sendErr == unix.ESRCH {
		sendErr = nil
	}
	if err := errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("send process %d %s: %w", p.pid, unix.SignalName(signal), err)
	}
	return nil
}

// close gives the pidfd back once the process has ended.
func (p *initProcess) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if p.fd != nil {
		_ = p.fd.Close()
	}
}

// wait returns once the process has ended, with how, and closes its pidfd. It is
// called exactly once.
func (p *initProcess) wait() (ExitStatus, error) {
	defer p.close()
	unknown := ExitStatus{Code: 255}
	if p.fd != nil {
		conn, err := p.fd.SyscallConn()
		if err == nil {
			err = conn.Read(func(fd uintptr) bool { return hasEnded(int(fd)) })
		}
		if err != nil {
			return unknown, fmt.Errorf("wait for process %d: %w", p.pid, err)
		}
	}
	status, err := p.parent.ExitStatus(p.pid)
	if err != nil {
		return unknown, err
	}
	if status.Signaled() {
		return ExitStatus{Code: 128 + int(status.Signal()), Signal: status.Signal()}, nil
	}
	return ExitStatus{Code: status.ExitStatus()}, nil
}

// ownChildren is the Parent that the agent's process is itself.
type ownChildren struct{}

// ExitStatus implements Parent. It reaps the process.
func (ownChildren) ExitStatus(pid int) (status unix.WaitStatus, err error) {
	for {
		if _, err = unix.Wait4(pid, &status, 0, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return 0, fmt.Errorf("wait for process %d: %w", pid, err)
	}
	return status, nil
}

// becomeSubreaper makes the agent the parent of processes whose parent has
// ended. The OCI runtime starts a container's first process and leaves: so it
// becomes ours to wait for. Nothing else in the agent may wait for just any
// child.
func becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphaned processes: %w", err)
	}
	return nil
}

// reap collects those of the killed processes that were children of the agent.
func reap(killed map[int]bool) {
	for pid := range killed {
		for range 20 {
			if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got != 0 || err == unix.ECHILD {
				break
			}
			time.Sleep(time.Millisecond) // it has left its cgroup and is about to become a zombie
		}
	}
}
