// Package containertest helps to test what uses containers: a Runtime without
// containers, and the suite of tests that every Runtime has to pass.
package containertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"

	"sanfran.dev/nodeagent/container"
)

// Fake is a container.Runtime that starts no process. A container's program is
// the function Run, in a goroutine. The zero value is ready to use.
type Fake struct {
	// Run is the program of every container, nil for one that does nothing
	// until it is killed. ctx ends when the container is killed. The files of
	// p are the program's own duplicates and are closed when Run returns, as
	// the kernel would; so Run must not return before it has ended what uses
	// them. What it returns is the exit status, unless it was killed.
	Run func(ctx context.Context, p *Process) container.ExitStatus

	// OnSignal, if not nil, is told of every signal but SIGKILL.
	OnSignal func(c *Instance, signal syscall.Signal)

	// Exec is every program that is run in a container, nil for none that is there.
	// ctx ends when it or the container is killed; it must end with ctx. What it
	// returns is the exit status, unless it was killed.
	Exec func(ctx context.Context, e *Exec) container.ExitStatus

	// OnUsage, if not nil, is what a container uses.
	OnUsage func(id string) container.Usage

	// OnStart, if not nil, may refuse a start.
	OnStart func(ctx context.Context, cfg container.Config) error

	mu   sync.Mutex
	live map[string]*Instance
}

// Process is what a program of Fake sees.
type Process struct {
	Config            container.Config
	Listener, Control *os.File
	// Those that Config lacks are nil.
	Log, Stdout, Stderr *os.File

	instance *Instance
}

// Mounts returns what has been mounted so far, the oldest first.
func (p *Process) Mounts() []container.Mount { return p.instance.Mounts() }

// Instance is a container of Fake, to be looked at by tests.
type Instance struct {
	fake   *Fake
	cfg    container.Config
	kill   context.CancelFunc
	exited chan struct{}

	mu        sync.Mutex
	status    container.ExitStatus
	mounts    []container.Mount
	resources container.Resources
	going     bool
	kills     []context.CancelFunc // of programs
	destroyed bool

	programs sync.WaitGroup // grows under mu, while the container runs
}

var (
	_ container.Runtime   = (*Fake)(nil)
	_ container.Container = (*Instance)(nil)
)

// Start implements container.Runtime.
func (f *Fake) Start(ctx context.Context, cfg container.Config) (_ container.Container, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if info, err := os.Stat(cfg.RootFS); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("start container %s: root filesystem %s is not a directory: %w", cfg.ID, cfg.RootFS, errors.Join(err, container.ErrInvalid))
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start container %s: %w", cfg.ID, err)
	}
	if f.OnStart != nil {
		if err := f.OnStart(ctx, cfg); err != nil {
			return nil, fmt.Errorf("start container %s: %w", cfg.ID, err)
		}
	}
	p := &Process{Config: cfg}
	for _, f := range []struct {
		own  **os.File
		from *os.File
	}{{&p.Listener, cfg.Listener}, {&p.Control, cfg.Control}, {&p.Log, cfg.Log}, {&p.Stdout, cfg.Stdout}, {&p.Stderr, cfg.Stderr}} {
		if f.from == nil {
			continue
		}
		if *f.own, err = duplicate(f.from); err != nil {
			p.close()
			return nil, fmt.Errorf("start container %s: %s: %w", cfg.ID, f.from.Name(), err)
		}
	}
	running, kill := context.WithCancel(context.Background())
	c := &Instance{fake: f, cfg: cfg, kill: kill, exited: make(chan struct{}), resources: cfg.Resources}

	f.mu.Lock()
	if f.live[cfg.ID] != nil {
		f.mu.Unlock()
		kill()
		p.close()
		return nil, fmt.Errorf("container %s: %w", cfg.ID, container.ErrExists)
	}
	if f.live == nil {
		f.live = map[string]*Instance{}
	}
	f.live[cfg.ID] = c
	f.mu.Unlock()

	p.instance = c
	go c.run(running, p)
	return c, nil
}

func (p *Process) close() {
	for _, f := range []*os.File{p.Listener, p.Control, p.Log, p.Stdout, p.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// Live returns the containers that have been started and not yet destroyed,
// in the order of their ids.
func (f *Fake) Live() []*Instance {
	f.mu.Lock()
	defer f.mu.Unlock()
	var live []*Instance
	for _, c := range f.live {
		live = append(live, c)
	}
	slices.SortFunc(live, func(a, b *Instance) int {
		if a.cfg.ID < b.cfg.ID {
			return -1
		}
		return 1
	})
	return live
}

func (c *Instance) run(ctx context.Context, p *Process) {
	var status container.ExitStatus
	if c.fake.Run != nil {
		status = c.fake.Run(ctx, p)
	} else {
		<-ctx.Done()
	}
	p.close()
	if ctx.Err() != nil {
		status = killed
	}
	c.mu.Lock()
	c.status, c.going = status, true
	kills := c.kills
	c.mu.Unlock()
	for _, kill := range kills {
		kill()
	}
	c.programs.Wait()
	close(c.exited)
}

// Config is what the container was started with.
func (c *Instance) Config() container.Config { return c.cfg }

// Mounts returns what has been mounted so far, the oldest first.
func (c *Instance) Mounts() []container.Mount {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.mounts)
}

// Resources are the limits that hold now.
func (c *Instance) Resources() container.Resources {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.resources
}

// Kill ends the container as if something on the host had killed it.
func (c *Instance) Kill() { c.kill() }

// ID implements container.Instance.
func (c *Instance) ID() string { return c.cfg.ID }

// Exited implements container.Instance.
func (c *Instance) Exited() <-chan struct{} { return c.exited }

// ExitStatus implements container.Container.
func (c *Instance) ExitStatus() container.ExitStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// alive is an error unless the container runs. The caller holds mu.
func (c *Instance) alive(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-c.exited:
		return container.ErrGone
	default:
	}
	if c.going {
		return container.ErrGone
	}
	return nil
}

// Mount implements container.Container.
func (c *Instance) Mount(ctx context.Context, m container.Mount) error {
	if err := m.Validate(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: mount %s: %w", c.cfg.ID, m.Target, err)
	}
	info, err := os.Lstat(m.Source)
	if err != nil {
		return fmt.Errorf("container %s: mount source %s: %w", c.cfg.ID, m.Source, err)
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return fmt.Errorf("container %s: mount source %s: %w: neither a directory nor a regular file", c.cfg.ID, m.Source, container.ErrInvalid)
	}
	c.mounts = append(c.mounts, m)
	return nil
}

// Unmount implements container.Container.
func (c *Instance) Unmount(ctx context.Context, target string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: unmount %s: %w", c.cfg.ID, target, err)
	}
	for i := len(c.mounts) - 1; i >= 0; i-- {
		if c.mounts[i].Target == target {
			c.mounts = slices.Delete(c.mounts, i, i+1)
			return nil
		}
	}
	return fmt.Errorf("container %s: unmount %s: %w", c.cfg.ID, target, syscall.EINVAL)
}

// MemoryInUse implements container.Container: a fake holds nothing.
func (c *Instance) MemoryInUse(ctx context.Context) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(ctx); err != nil {
		return 0, fmt.Errorf("container %s: memory in use: %w", c.cfg.ID, err)
	}
	return 0, nil
}

// Usage implements container.Container.
func (c *Instance) Usage(ctx context.Context) (container.Usage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.destroyed || ctx.Err() != nil {
		return container.Usage{}, fmt.Errorf("container %s: usage: %w", c.cfg.ID, errors.Join(ctx.Err(), container.ErrGone))
	}
	if c.fake.OnUsage == nil {
		return container.Usage{}, nil
	}
	return c.fake.OnUsage(c.cfg.ID), nil
}

// SetResources implements container.Container.
func (c *Instance) SetResources(ctx context.Context, r container.Resources) error {
	if err := r.Validate(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: set limits: %w", c.cfg.ID, err)
	}
	if r.MilliCPU > 0 {
		c.resources.MilliCPU = r.MilliCPU
	}
	if r.MemoryBytes > 0 {
		c.resources.MemoryBytes = r.MemoryBytes
	}
	return nil
}

// SetHostname implements container.Container.
func (c *Instance) SetHostname(ctx context.Context, name string) error {
	if name == "" || len(name) > 64 {
		return fmt.Errorf("container %s: host name %q: %w", c.cfg.ID, name, container.ErrInvalid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(ctx); err != nil {
		return fmt.Errorf("container %s: set the host name: %w", c.cfg.ID, err)
	}
	return nil
}

// Signal implements container.Container.
func (c *Instance) Signal(ctx context.Context, signal syscall.Signal) error {
	c.mu.Lock()
	err := c.alive(ctx)
	c.mu.Unlock()
	switch {
	case err != nil:
		return fmt.Errorf("container %s: send a signal: %w", c.cfg.ID, err)
	case signal == syscall.SIGKILL:
		c.kill()
	case c.fake.OnSignal != nil:
		c.fake.OnSignal(c, signal)
	}
	return nil
}

// Destroy implements container.Container.
func (c *Instance) Destroy(context.Context) error {
	c.mu.Lock()
	c.going, c.destroyed = true, true
	c.mu.Unlock()
	c.kill()
	<-c.exited
	c.fake.mu.Lock()
	defer c.fake.mu.Unlock()
	if c.fake.live[c.cfg.ID] == c {
		delete(c.fake.live, c.cfg.ID)
	}
	return nil
}

func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var dup int
	var dupErr error
	err = conn.Control(func(fd uintptr) {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
		if dup, dupErr = syscall.Dup(int(fd)); dupErr == nil {
			syscall.CloseOnExec(dup)
		}
	})
	if err = errors.Join(err, dupErr); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(dup), f.Name()), nil
}
