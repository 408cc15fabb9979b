package container

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"sanfran.dev/internal/failpoint"
)

// runcContainer is a Container of Runc.
type runcContainer struct {
	runtime *Runc
	id      string
	hostID  uint32
	process *initProcess
	execs   atomic.Uint64 // programs that were to be started
	ending  atomic.Bool   // Destroy has been called

	exited chan struct{} // closed by watch, after status was set
	status ExitStatus

	// mu is held for reading while something is done to the running
	// container, and for writing while it is taken apart.
	mu        sync.RWMutex
	going     bool // Destroy has begun
	destroyed bool // and nothing is left
}

// newRuncContainer starts the goroutine that waits for the process to end; it
// ends with the process.
func newRuncContainer(r *Runc, id string, hostID uint32, process *initProcess) *runcContainer {
	c := &runcContainer{runtime: r, id: id, hostID: hostID, process: process, exited: make(chan struct{})}
	go c.watch()
	return c
}

func (c *runcContainer) watch() {
	status, err := c.process.wait()
	if err != nil {
		c.runtime.logger.Error("how a container ended is not known", "container", c.id, "error", err)
	}
	if oom := c.runtime.opts.Cgroups.oom(c.id); status.Signal == killSignal && oom.kills > 0 {
		status.OOMKilled, status.NodeFull = true, !oom.own
	}
	c.status = status
	close(c.exited)
}

func (c *runcContainer) ID() string              { return c.id }
func (c *runcContainer) Exited() <-chan struct{} { return c.exited }

func (c *runcContainer) ExitStatus() ExitStatus {
	select {
	case <-c.exited:
		return c.status
	default:
		return ExitStatus{}
	}
}

// alive returns with mu held for reading, or an error and mu not held.
func (c *runcContainer) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.RLock()
	select {
	case <-c.exited:
	default:
		if !c.going {
			return nil
		}
	}
	c.mu.RUnlock()
	return ErrGone
}

func (c *runcContainer) Mount(ctx context.Context, m Mount) error {
	if err := m.Validate(); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: mount %s: %w", c.id, m.Target, err)
	}
	defer c.mu.RUnlock()
	if err := bind(c.runtime.slot(c.id).root(), m, tenant{pid: c.process.pid, hostID: int(c.hostID) + UserID}); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

func (c *runcContainer) Unmount(ctx context.Context, target string) error {
	if err := (Mount{Source: "/", Target: target}).Validate(); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: unmount %s: %w", c.id, target, err)
	}
	defer c.mu.RUnlock()
	if err := unbind(c.runtime.slot(c.id).root(), target); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

func (c *runcContainer) MemoryInUse(ctx context.Context) (int64, error) {
	if err := c.alive(ctx); err != nil {
		return 0, fmt.Errorf("container %s: memory in use: %w", c.id, err)
	}
	defer c.mu.RUnlock()
	return c.runtime.opts.Cgroups.MemoryInUse(c.id)
}

// Usage implements Container.
func (c *runcContainer) Usage(ctx context.Context) (Usage, error) {
	if err := ctx.Err(); err != nil {
		return Usage{}, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.going {
		return Usage{}, fmt.Errorf("container %s: usage: %w", c.id, ErrGone)
	}
	return c.runtime.opts.Cgroups.Usage(c.id)
}

func (c *runcContainer) SetResources(ctx context.Context, limits Resources) error {
	if err := limits.Validate(); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: set limits: %w", c.id, err)
	}
	defer c.mu.RUnlock()
	if err := failpoint.After("container: limits set", c.runtime.opts.Cgroups.SetLimits(c.id, limits)); err != nil {
		return err
	}
	if err := setOOMScore(c.process.pid, c.runtime.tenantOOMScore(limits.MemoryRequestBytes)); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	if limits.TmpBytes == 0 {
		return nil
	}
	if err := resizeTmp(c.process.pid, min(limits.TmpBytes, c.runtime.opts.TmpBytes)); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

func (c *runcContainer) Signal(ctx context.Context, signal syscall.Signal) error {
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: send a signal: %w", c.id, err)
	}
	defer c.mu.RUnlock()
	if err := c.process.signal(signal); err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

func (c *runcContainer) kill() {
	if err := c.process.signal(killSignal); err != nil {
		c.runtime.logger.Error("a container cannot be killed", "container", c.id, "error", err)
	}
}

func (c *runcContainer) Destroy(ctx context.Context) error {
	c.ending.Store(true)
	c.kill() // before the lock: whoever holds it is done the sooner
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.destroyed {
		return nil
	}
	c.going = true
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	select {
	case <-c.exited:
	case <-ctx.Done():
		return fmt.Errorf("destroy container %s: process %d is still there %v after SIGKILL", c.id, c.process.pid, cleanTimeout)
	}
	failpoint.Here("container: killed")
	slot := c.runtime.slot(c.id)
	err := errors.Join(c.runtime.removeRuntimeState(ctx, c.id), collectOrphans(0))
	failpoint.Here("container: state removed")
	if unmountErr := failpoint.After("container: overlay unmounted", slot.unmount()); unmountErr != nil {
		err = errors.Join(err, unmountErr) // and then the folders must stay
	} else {
		err = errors.Join(err, slot.remove())
	}
	if err != nil {
		return fmt.Errorf("destroy container %s: %w", c.id, err)
	}
	failpoint.Here("container: folder removed")
	c.destroyed = true
	c.runtime.hostIDs.give(c.hostID)
	c.runtime.unclaim(c.id)
	return nil
}
