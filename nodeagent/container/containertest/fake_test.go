package containertest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
)

func TestFake(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	containertest.Suite(t, func(t *testing.T) containertest.Subject {
		fake := &containertest.Fake{Run: program, Exec: execProgram}
		return containertest.Subject{
			Runtime: fake,
			RootFS:  t.TempDir(),
			Args:    func(program string) []string { return []string{"/" + program} },
			Left: func() []string {
				var ids []string
				for _, c := range fake.Live() {
					ids = append(ids, "container "+c.ID())
				}
				return ids
			},
		}
	})
}

func program(ctx context.Context, p *containertest.Process) container.ExitStatus {
	switch p.Config.Args[0] {
	case "/" + containertest.Exit3:
		return container.ExitStatus{Code: 3}
	case "/" + containertest.Exit0OnEOF:
		_, _ = io.Copy(io.Discard, p.Control)
		return container.ExitStatus{}
	case "/" + containertest.Speaks:
		_, _ = p.Control.Write([]byte("x"))
	}
	<-ctx.Done()
	return container.ExitStatus{}
}

func execProgram(ctx context.Context, e *containertest.Exec) container.ExitStatus {
	// Its files may be blocking: they are let go of from outside.
	stop := context.AfterFunc(ctx, func() {
		for _, f := range []*os.File{e.Stdin, e.Stdout, e.Stderr} {
			if f != nil {
				f.Close()
			}
		}
	})
	defer stop()
	switch e.Program.Args[0] {
	case "/" + containertest.ExecExit7:
		fmt.Fprintln(e.Stdout, "out")
		fmt.Fprintln(e.Stderr, "err")
		return container.ExitStatus{Code: 7}
	case "/" + containertest.ExecCopy:
		if e.Stdin != nil {
			_, _ = io.Copy(e.Stdout, e.Stdin)
		}
	case "/" + containertest.ExecSize:
		for lines := bufio.NewScanner(e.Stdin); lines.Scan(); {
			conn, err := e.Stdin.SyscallConn()
			if err != nil {
				return container.ExitStatus{Code: 1}
			}
			_ = conn.Control(func(fd uintptr) {
				if size, err := unix.IoctlGetWinsize(int(fd), unix.TIOCGWINSZ); err == nil {
					fmt.Fprintf(e.Stdout, "%d x %d\n", size.Col, size.Row)
				}
			})
		}
	}
	return container.ExitStatus{}
}
