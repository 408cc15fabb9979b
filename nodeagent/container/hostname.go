package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"sanfran.dev/internal/failpoint"
)

// maxHostname is the kernel's HOST_NAME_MAX.
const maxHostname = 64

// validHostname wraps ErrInvalid in its error.
func validHostname(name string) error {
	if name == "" || len(name) > maxHostname {
		return fmt.Errorf("host name %q: %w: it must have 1 to %d bytes", name, ErrInvalid, maxHostname)
	}
	return nil
}

// SetHostname implements Container.
func (c *runcContainer) SetHostname(ctx context.Context, name string) error {
	if err := validHostname(name); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: set the host name: %w", c.id, err)
	}
	defer c.mu.RUnlock()
	if err := failpoint.After("container: named", c.process.setHostname(name, c.runtime.uts)); err != nil {
		return fmt.Errorf("container %s: set the host name: %w", c.id, err)
	}
	return nil
}

// setHostname sets the name in the process's UTS namespace, which one thread of
// the agent joins for that moment; own is the agent's, to come back to.
func (p *initProcess) setHostname(name string, own *os.File) error {
	if p.fd == nil {
		return ErrGone
	}
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	err = conn.Control(func(fd uintptr) {
		done := make(chan error)
		go func() { // a thread that does not find back ends with its goroutine
			runtime.LockOSThread()
			err := unix.Setns(int(fd), unix.CLONE_NEWUTS)
			if err != nil {
				runtime.UnlockOSThread()
				if errors.Is(err, unix.ESRCH) {
					err = ErrGone
				}
				done <- fmt.Errorf("join the UTS namespace: %w", err)
				return
			}
			err = unix.Sethostname([]byte(name))
			if backErr := unix.Setns(int(own.Fd()), unix.CLONE_NEWUTS); backErr == nil {
				runtime.UnlockOSThread()
			} else {
				err = errors.Join(err, fmt.Errorf("leave the UTS namespace: %w", backErr))
			}
			done <- err
		}()
		setErr = <-done
	})
	return errors.Join(err, setErr)
}
