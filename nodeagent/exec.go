package nodeagent

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/internal/flow"
	"sanfran.dev/nodeagent/container"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// program is what Exec has started, with this agent's ends of its files; nil: it has
// no such file. With a terminal stdin and stdout are that.
type program struct {
	process               container.Process
	terminal              bool
	stdin, stdout, stderr *os.File
}

// close lets go of the files. Whoever reads or writes them is woken.
func (p *program) close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close() // of a terminal one and the same
		}
	}
}

// exec runs a program in the pod's container.
func (s *streams) exec(c *inquiry, m *streamsv1.Exec) error {
	p, inst, release, err := s.agent.hold(c.ctx, m.GetPodUid())
	if err != nil {
		return c.refuse(err)
	}
	defer release()
	run, err := startProgram(c.ctx, inst.warm.container, p.spec, m)
	switch {
	case errors.Is(err, container.ErrGone):
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_NO_CONTAINER, "the pod's container has just ended; try again")
	case err != nil:
		s.agent.log.Info("a program was not run", "pod", p.spec.PodUID, "name", p.spec.PodName, "err", err)
		return c.fail(streamsv1.FailureReason_FAILURE_REASON_REFUSED, err.Error())
	}
	defer run.close()
	return run.serve(c)
}

// startProgram starts what the message asks for.
func startProgram(ctx context.Context, in container.Container, spec *Assignment, m *streamsv1.Exec) (_ *program, err error) {
	want := container.Program{Args: m.GetCommand(), Env: execEnvironment(spec, m.GetTerminal()), Dir: spec.folder(), Terminal: m.GetTerminal()}
	run := &program{terminal: m.GetTerminal()}
	defer func() {
		if err != nil {
			run.close()
		}
	}()
	if run.terminal {
		if run.process, err = in.Exec(ctx, want); err == nil {
			run.stdin, run.stdout = run.process.Terminal(), run.process.Terminal()
		}
		return run, err
	}
	for _, f := range []struct {
		wanted bool
		theirs **os.File
		ours   **os.File
		reads  bool // we do
	}{{m.GetStdin(), &want.Stdin, &run.stdin, false}, {m.GetStdout(), &want.Stdout, &run.stdout, true}, {m.GetStderr(), &want.Stderr, &run.stderr, true}} {
		if !f.wanted {
			continue
		}
		read, write, err := newPipe(f.reads)
		if err != nil {
			return nil, err
		}
		*f.ours, *f.theirs = read, write
		if !f.reads {
			*f.ours, *f.theirs = write, read
		}
		defer (*f.theirs).Close()
	}
	run.process, err = in.Exec(ctx, want)
	return run, err
}

// execEnvironment is the function's, and with a terminal the kind of that, as
// container engines set it.
func execEnvironment(spec *Assignment, terminal bool) []string {
	vars := spec.environment()
	if _, ok := vars["TERM"]; terminal && !ok {
		vars["TERM"] = "xterm"
	}
	env := make([]string, 0, len(vars))
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		env = append(env, name+"="+vars[name])
	}
	return env
}

// serve passes on what the program and its caller say, until the program ends. It
// ends the program when the caller is gone.
func (p *program) serve(c *inquiry) error {
	input := flow.NewReader(c.taken)
	output, errorOutput := flow.NewWriter(c.data), flow.NewWriter(c.errorData)
	stop := context.AfterFunc(c.ctx, func() {
		_ = p.process.Kill() // what cannot be killed goes with its container
		err := context.Cause(c.ctx)
		input.Fail(err)
		output.Fail(err)
		errorOutput.Fail(err)
	})
	defer stop()
	err := c.opened(func(m *streamsv1.AnswerResponse) error {
		switch m := m.GetMessage().(type) {
		case *streamsv1.AnswerResponse_Data:
			return input.Receive(m.Data)
		case *streamsv1.AnswerResponse_EndOfData:
			input.Fail(io.EOF)
			return nil
		case *streamsv1.AnswerResponse_Taken:
			return errors.Join(output.Taken(int(m.Taken.GetData())), errorOutput.Taken(int(m.Taken.GetErrorData())))
		case *streamsv1.AnswerResponse_TerminalSize:
			// It may have ended, and its terminal with it.
			_ = p.process.Resize(uint16(min(m.TerminalSize.GetColumns(), 1<<16-1)), uint16(min(m.TerminalSize.GetRows(), 1<<16-1)))
			return nil
		default:
			return errUnexpected
		}
	})
	var reading, writing sync.WaitGroup
	if p.stdin != nil {
		writing.Go(func() { p.feed(input) })
	}
	reading.Go(func() { passOutput(output, p.stdout) })
	reading.Go(func() { passOutput(errorOutput, p.stderr) })
	if err != nil {
		_ = p.process.Kill()
	}
	<-p.process.Exited()
	for _, f := range []*os.File{p.stdout, p.stderr} {
		if f != nil {
			// What it has left running may write on; nobody listens.
			_ = f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	reading.Wait()
	input.Fail(io.EOF)
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	writing.Wait()
	if err != nil {
		return err
	}
	return c.send(&streamsv1.AnswerRequest{Message: &streamsv1.AnswerRequest_Exited{Exited: &streamsv1.Exited{Code: int32(p.process.ExitStatus().Code)}}})
}

var errUnexpected = errors.New("the control plane says what does not belong to the stream")

// feed writes the caller's input to the program until its end. A program that reads
// no more is no reason to hold up the caller.
func (p *program) feed(input io.Reader) {
	if _, err := io.Copy(p.stdin, input); err != nil {
		_, _ = io.Copy(io.Discard, input)
	}
	if !p.terminal { // which has no end of input
		_ = p.stdin.Close()
	}
}

// passOutput passes on what the program writes, until everybody has let go of the
// file, or the file's deadline is set: then what is there. An error is of whom it is
// passed to, who is gone.
func passOutput(to io.Writer, from *os.File) {
	if from == nil {
		return
	}
	if _, err := io.Copy(to, from); errors.Is(err, os.ErrDeadlineExceeded) {
		passRest(to, from)
	}
}

// restAtMost is as much as a pipe holds that an unprivileged process has made as
// large as it can: enough for all that the program itself has written.
const restAtMost = 1 << 20

func passRest(to io.Writer, from *os.File) {
	conn, err := from.SyscallConn()
	if err != nil {
		return
	}
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for passed := 0; passed < restAtMost; {
		n := nothingYet
		if err := conn.Control(func(fd uintptr) { n = readNow(int(fd), *b) }); err != nil || n <= 0 {
			return
		}
		if _, err := to.Write((*b)[:n]); err != nil {
			return
		}
		passed += n
	}
}

// newPipe makes a pipe of which the reading end, or else the writing end, is the
// agent's: that one does not block, the other one, a program's, does.
func newPipe(oursReads bool) (read, write *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	ours := fds[1]
	if oursReads {
		ours = fds[0]
	}
	// Before NewFile, which looks whether it may wait for the file.
	if err := unix.SetNonblock(ours, true); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}
