package container

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Parent is the parent of the first processes of containers where that is not the
// agent's own process: a supervisor, with which they outlive the agent's process.
type Parent interface {
	// ExitStatus is how a process has ended. It is asked once the process has.
	ExitStatus(pid int) (unix.WaitStatus, error)
}

// Handle is what a later process of the agent needs to go on with a container.
type Handle struct {
	// PID and HostID are those of the container's first process: its id, and the
	// first of the host's user ids that are the container's.
	PID    int
	HostID uint32
	// Process is the process's pidfd, not blocking; nil: it had ended at its start.
	Process *os.File
}

// Lasting is a container that can outlive the agent's process.
type Lasting interface {
	Container
	// Handle is what Adopt takes. Its file stays the container's, until Exited is
	// closed: it is to be duplicated.
	Handle() Handle
}

var _ Lasting = (*runcContainer)(nil)

// Handle implements Lasting.
func (c *runcContainer) Handle() Handle {
	return Handle{PID: c.process.pid, HostID: c.hostID, Process: c.process.fd}
}

// Adopt takes over a container of an earlier process of the agent, in whatever
// state that one has left it: it may have exited, or be half taken apart. It must
// come before Sweep, which spares what is adopted. The caller must call Destroy.
// After an error the handle's file is still the caller's.
func (r *Runc) Adopt(id string, h Handle) (Container, error) {
	if !validID(id) || h.PID <= 1 {
		return nil, fmt.Errorf("adopt container %q with process %d: %w", id, h.PID, ErrInvalid)
	}
	if err := r.claim(id); err != nil {
		return nil, err
	}
	if err := r.hostIDs.claim(h.HostID); err != nil {
		r.unclaim(id)
		return nil, fmt.Errorf("adopt container %s: %w", id, err)
	}
	return newRuncContainer(r, id, h.HostID, &initProcess{pid: h.PID, fd: h.Process, ended: h.Process == nil, parent: r.parent}), nil
}
