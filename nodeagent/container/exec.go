package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Exec implements Container.
func (c *runcContainer) Exec(ctx context.Context, p Program) (Process, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("container %s: %w", c.id, err)
	}
	if err := c.alive(ctx); err != nil {
		return nil, fmt.Errorf("container %s: run %.100q: %w", c.id, p.Args[0], err)
	}
	defer c.mu.RUnlock()
	e := &runcExec{container: c, base: filepath.Join(c.runtime.slot(c.id).bundle(), "exec-"+strconv.FormatUint(c.execs.Add(1), 10))}
	process, err := e.start(ctx, p)
	if err == nil {
		return process, nil
	}
	if c.ending.Load() || c.process.isGone() { // which is why
		err = errors.Join(ErrGone, err)
	}
	return nil, fmt.Errorf("container %s: run %.100q: %w", c.id, p.Args[0], err)
}

// runcExec is one start of a program by the OCI runtime. Its files are beside the
// container's own, on a tmpfs: an environment holds Secrets.
type runcExec struct {
	container *runcContainer
	base      string
}

func (e *runcExec) spec() string    { return e.base + ".json" }
func (e *runcExec) log() string     { return e.base + ".log" }
func (e *runcExec) pidFile() string { return e.base + ".pid" }
func (e *runcExec) socket() string  { return e.base + ".tty" }

// clean removes the files. What it cannot remove goes with the container.
func (e *runcExec) clean() {
	for _, name := range []string{e.spec(), e.log(), e.pidFile(), e.socket()} {
		_ = os.Remove(name)
	}
}

func (e *runcExec) start(ctx context.Context, p Program) (_ Process, err error) {
	defer e.clean()
	data, err := json.Marshal(e.container.runtime.execSpec(p))
	if err != nil {
		return nil, fmt.Errorf("encode the program's spec: %w", err)
	}
	if err := os.WriteFile(e.spec(), data, 0o600); err != nil {
		return nil, err
	}
	var terminal *terminalSocket
	if p.Terminal {
		if terminal, err = listenForTerminal(e.socket()); err != nil {
			return nil, err
		}
		defer terminal.close()
	}
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if err := e.give(f); err != nil {
			return nil, err
		}
	}
	if err := e.run(ctx, p); err != nil {
		e.abandon()
		return nil, err
	}
	pid, err := readPidFile(e.pidFile())
	if err != nil {
		return nil, err
	}
	process, err := e.openInit(pid)
	if err != nil {
		return nil, err
	}
	started := newRuncProcess(process)
	if terminal != nil {
		if started.terminal, err = terminal.receive(); err != nil {
			return nil, errors.Join(err, started.Kill())
		}
	}
	return started, nil
}

// give makes a pipe the container user's; other files keep their owner.
func (e *runcExec) give(f *os.File) error {
	if f == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return err
	}
	id := int(e.container.hostID) + UserID
	return f.Chown(id, id)
}

// run lets the OCI runtime start the program, and returns when the program has been
// executed and the runtime is gone. As with a container's start it does not heed
// ctx's cancellation, but the container's end.
func (e *runcExec) run(ctx context.Context, p Program) error {
	r := e.container.runtime
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.StartTimeout)
	defer cancel()
	ended := make(chan struct{})
	defer func() { <-ended }()
	go func() {
		defer close(ended)
		select {
		case <-e.container.exited:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer cancel() // before ended is waited for
	args := []string{"--root", r.stateDir(), "--log", e.log(), "--log-format", "json", "exec", "--detach", "--process", e.spec(), "--pid-file", e.pidFile()}
	if p.Terminal {
		args = append(args, "--console-socket", e.socket())
	}
	cmd := exec.CommandContext(ctx, r.binary, append(args, e.container.id)...)
	cmd.WaitDelay = time.Second                           // what it said is there; nobody else may hold it up
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the agent's Ctrl-C is not theirs
	var said bytes.Buffer
	switch {
	case p.Terminal:
		cmd.Stderr = &said // the program has none of it
	default: // a nil *os.File in an interface would not be nil
		if p.Stdin != nil {
			cmd.Stdin = p.Stdin
		}
		if p.Stdout != nil {
			cmd.Stdout = p.Stdout
		}
		if p.Stderr != nil {
			cmd.Stderr = p.Stderr
		}
	}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("the OCI runtime was given up: %w", err)
	}
	if reason := lastLogged(e.log()); reason != "" {
		err = errors.New(reason)
	} else {
		err = fmt.Errorf("%w %.300s", err, said.String())
	}
	if cmd.Process != nil {
		err = errors.Join(err, endGroup(cmd.Process.Pid))
	}
	return err
}

// openInit opens the program's process, which the OCI runtime has left.
func (e *runcExec) openInit(pid int) (*initProcess, error) {
	return openInit(pid, e.container.hostID+UserID, e.container.runtime.parent)
}

// abandon ends a program whose start was reported as failed, if there is one.
func (e *runcExec) abandon() {
	pid, err := readPidFile(e.pidFile())
	if err != nil {
		return
	}
	if process, err := e.openInit(pid); err == nil {
		started := newRuncProcess(process)
		_ = started.Kill()
		<-started.exited
	}
}

// execSpec is the OCI runtime's description of a program in a running container:
// Start's restrictions on a process. Those of the container (its namespaces, groups
// and system calls) the runtime applies by itself.
func (r *Runc) execSpec(p Program) *specs.Process {
	spec := processSpec(p.Args, p.Env, r.oomScoreAdj, r.openFiles)
	if p.Dir != "" {
		spec.Cwd = p.Dir
	}
	spec.Terminal = p.Terminal
	spec.Rlimits = append(spec.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_SIGPENDING", Hard: queuedSignals, Soft: queuedSignals})
	return spec
}

// runcProcess is a Process of Runc.
type runcProcess struct {
	process  *initProcess
	terminal *os.File
	exited   chan struct{} // closed after status was set
	status   ExitStatus
}

// newRuncProcess starts the goroutine that waits for the process to end; it ends
// with the process. Nothing else would reap it, and the kernel keeps a container's
// first process until all others are reaped.
func newRuncProcess(process *initProcess) *runcProcess {
	p := &runcProcess{process: process, exited: make(chan struct{})}
	go func() {
		defer close(p.exited)
		var err error
		if p.status, err = process.wait(); err != nil {
			// Reaped by Cgroups.Remove, which has killed it with its container.
			p.status = ExitStatus{Code: 128 + int(killSignal), Signal: killSignal}
		}
	}()
	return p
}

func (p *runcProcess) Terminal() *os.File      { return p.terminal }
func (p *runcProcess) Exited() <-chan struct{} { return p.exited }
func (p *runcProcess) Kill() error             { return p.process.killGroup() }

func (p *runcProcess) ExitStatus() ExitStatus {
	select {
	case <-p.exited:
		return p.status
	default:
		return ExitStatus{}
	}
}

// Resize implements Process.
func (p *runcProcess) Resize(columns, rows uint16) error {
	if p.terminal == nil {
		return fmt.Errorf("set the size of a terminal: %w: the program has none", ErrInvalid)
	}
	return SetTerminalSize(p.terminal, columns, rows)
}

// killGroup kills the process and, if it leads one, its process group.
func (p *initProcess) killGroup() error {
	p.mu.Lock()
	if !p.ended {
		if conn, err := p.fd.SyscallConn(); err == nil {
			_ = conn.Control(func(fd uintptr) { p.signalGroup(int(fd)) })
		}
	}
	p.mu.Unlock()
	return p.signal(unix.SIGKILL)
}

// signalGroup goes by the pidfd where the kernel can (6.9). Elsewhere it looks
// first whether the process has been reaped: the number may be another group's then.
func (p *initProcess) signalGroup(pidfd int) {
	const processGroup = 1 << 2 // PIDFD_SIGNAL_PROCESS_GROUP of <linux/pidfd.h>
	if err := unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, processGroup); !errors.Is(err, unix.EINVAL) {
		return
	}
	if unix.PidfdSendSignal(pidfd, 0, nil, 0) != nil {
		return
	}
	if group, err := unix.Getpgid(p.pid); err == nil && group == p.pid {
		_ = unix.Kill(-p.pid, unix.SIGKILL)
	}
}

// isGone reports whether the process has ended, or is about to be found so: the OCI
// runtime looks at the same place.
func (p *initProcess) isGone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return true
	}
	// "pid (name) state …"; the name may hold anything.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	_, after, _ := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
	return len(after) > 0 && (after[0] == 'Z' || after[0] == 'X')
}

// SetTerminalSize tells a terminal its size in characters.
func SetTerminalSize(terminal *os.File, columns, rows uint16) error {
	conn, err := terminal.SyscallConn()
	if err != nil {
		return fmt.Errorf("set the size of a terminal: %w", err)
	}
	var sizeErr error
	err = conn.Control(func(fd uintptr) {
		sizeErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	})
	if err = errors.Join(err, sizeErr); err != nil {
		return fmt.Errorf("set the size of a terminal: %w", err)
	}
	return nil
}
