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
	// thread.
	fd *os.File

	mu    sync.Mutex // so that nothing is sent through a pidfd given back
	ended bool
}

// openInit opens the process with this pid. It must be a child of the agent,
// alive or a zombie: only then is the pid not somebody else's by now.
func openInit(pid int) (*initProcess, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open the container's first process, by the OCI runtime's pid file %d: %w", pid, err)
	}
	var ended unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, fd, &ended, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("process %d, by the OCI runtime's pid file the container's first, is no child of the agent: %w", pid, err), unix.Close(fd))
	}
	return &initProcess{pid: pid, fd: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd:%d", pid))}, nil
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
	_ = p.fd.Close()
}

// wait returns once the process has ended, reaped, and closes its pidfd. It is
// called exactly once.
func (p *initProcess) wait() (ExitStatus, error) {
	defer p.close()
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return ExitStatus{Code: 255}, err
	}
	var status unix.WaitStatus
	var waitErr error
	err = conn.Read(func(uintptr) bool {
		var pid int
		for {
			pid, waitErr = unix.Wait4(p.pid, &status, unix.WNOHANG, nil)
			if waitErr != unix.EINTR {
				break
			}
		}
		return waitErr != nil || pid == p.pid
	})
	if err = errors.Join(err, waitErr); err != nil {
		return ExitStatus{Code: 255}, fmt.Errorf("wait for process %d: %w", p.pid, err)
	}
	if status.Signaled() {
		return ExitStatus{Code: 128 + int(status.Signal()), Signal: status.Signal()}, nil
	}
	return ExitStatus{Code: status.ExitStatus()}, nil
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
