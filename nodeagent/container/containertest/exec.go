package containertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
)

// Exec is a program that somebody runs in a container of Fake.
type Exec struct {
	Program container.Program
	// The program's own duplicates; with a terminal all three are that. They are
	// closed when it returns. Those that Program lacks are nil.
	Stdin, Stdout, Stderr *os.File
}

// process is a container.Process of Fake.
type process struct {
	kill     context.CancelFunc
	terminal *os.File
	exited   chan struct{}
	mu       sync.Mutex
	status   container.ExitStatus
}

// Exec implements container.Container.
func (c *Instance) Exec(ctx context.Context, p container.Program) (_ container.Process, err error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.alive(ctx); err != nil {
		return nil, fmt.Errorf("container %s: run %s: %w", c.cfg.ID, p.Args[0], err)
	}
	run := c.fake.Exec
	if run == nil {
		return nil, fmt.Errorf("container %s: run %s: executable file not found in $PATH", c.cfg.ID, p.Args[0])
	}
	e := &Exec{Program: p}
	running, kill := context.WithCancel(context.Background())
	started := &process{kill: kill, exited: make(chan struct{})}
	defer func() {
		if err != nil {
			kill()
			e.close()
		}
	}()
	if p.Terminal {
		if started.terminal, e.Stdin, err = openTerminal(); err != nil {
			return nil, err
		}
		e.Stdout, e.Stderr = e.Stdin, e.Stdin
	}
	for _, f := range []struct {
		own  **os.File
		from *os.File
	}{{&e.Stdin, p.Stdin}, {&e.Stdout, p.Stdout}, {&e.Stderr, p.Stderr}} {
		if f.from == nil {
			continue
		}
		if *f.own, err = duplicateNonblocking(f.from); err != nil {
			return nil, fmt.Errorf("container %s: run %s: %w", c.cfg.ID, p.Args[0], err)
		}
	}
	c.programs.Add(1)
	c.kills = append(c.kills, kill)
	go func() {
		defer c.programs.Done()
		defer kill()
		status := run(running, e)
		if running.Err() != nil {
			status = killed
		}
		e.close()
		started.mu.Lock()
		started.status = status
		started.mu.Unlock()
		close(started.exited)
	}()
	return started, nil
}

func (e *Exec) close() {
	for _, f := range []*os.File{e.Stdin, e.Stdout, e.Stderr} {
		if f != nil {
			f.Close() // of a terminal one and the same
		}
	}
}

// killed is how a program ends that somebody kills.
var killed = container.ExitStatus{Code: 128 + int(syscall.SIGKILL), Signal: syscall.SIGKILL}

// Terminal implements container.Process.
func (p *process) Terminal() *os.File { return p.terminal }

// Resize implements container.Process.
func (p *process) Resize(columns, rows uint16) error {
	if p.terminal == nil {
		return fmt.Errorf("%w: no terminal", container.ErrInvalid)
	}
	return container.SetTerminalSize(p.terminal, columns, rows)
}

// Exited implements container.Process.
func (p *process) Exited() <-chan struct{} { return p.exited }

// ExitStatus implements container.Process.
func (p *process) ExitStatus() container.ExitStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

// Kill implements container.Process.
func (p *process) Kill() error {
	p.kill()
	return nil
}

// duplicateNonblocking is duplicate for who must be able to let go of a file that it
// waits for, as a process is when it is killed. The caller's file, which Exec is
// given, does not block any more, either.
func duplicateNonblocking(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var blockErr error
	err = conn.Control(func(fd uintptr) { blockErr = unix.SetNonblock(int(fd), true) })
	if err = errors.Join(err, blockErr); err != nil {
		return nil, err
	}
	return duplicate(f)
}

// openTerminal makes a terminal: its other side, and the one for a program. Neither
// controls anything.
func openTerminal() (other, program *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a terminal: %w", err)
	}
	other = os.NewFile(uintptr(fd), "terminal")
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("unlock a terminal: %w", err), other.Close())
	}
	peer, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("name a terminal: %w", err), other.Close())
	}
	if program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", peer), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0); err != nil {
		return nil, nil, errors.Join(err, other.Close())
	}
	return other, program, nil
}
