package containertest_test

import (
	"context"
	"io"
	"testing"

	"go.uber.org/goleak"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
)

func TestFake(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	containertest.Suite(t, func(t *testing.T) containertest.Subject {
		fake := &containertest.Fake{Run: program}
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
	default:
		<-ctx.Done()
		return container.ExitStatus{}
	}
}
