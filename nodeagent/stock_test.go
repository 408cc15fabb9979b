package nodeagent

import (
	"context"
	"maps"
	"testing"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
	"sanfran.dev/nodeagent/pool"
)

func TestARuntimeThatNobodyUsesIsKeptInSmallNumbers(t *testing.T) {
	for name, want := range map[string]map[string]int{
		"node24": {"node24": 3, "node26": 1},
		"":       {"node24": 3, "node26": 3},
	} {
		ta := startTestAgent(t, func(_ *testAgent, c *Config) {
			c.Runtimes["node26"] = t.TempDir()
			c.DefaultRuntime, c.PoolTarget, c.PoolUnused = name, 3, 1
		})
		eventually(t, "the pools to be full", func() bool {
			warm := map[string]int{}
			for _, s := range ta.warmers.Status() {
				warm[s.Runtime] = s.Warm + s.Warming
				if s.Warming > 0 {
					return false
				}
			}
			return maps.Equal(warm, want)
		})
		ta.stop()
	}
}

func TestADeadContainerIsNotHandedOut(t *testing.T) {
	ta := startTestAgent(t, nil)
	die := make(chan struct{})
	s := &starter{
		keep: &keeper{},
		runtime: &containertest.Fake{Run: func(ctx context.Context, p *containertest.Process) container.ExitStatus {
			_, _ = p.Control.WriteString("{\"type\":\"warm\"}\n")
			select {
			case <-die:
			case <-ctx.Done():
			}
			return container.ExitStatus{}
		}},
		sockets: openFakeSocket, rootFS: ta.cfg.Runtimes, args: ta.cfg.WorkerArgs, bootTimeout: patience,
		namespace: func(context.Context, string) (string, func() error, error) {
			return "", func() error { return nil }, nil
		},
	}
	st := &stock{pools: map[string]*pool.Pool[*warmContainer]{}}
	cfg := st.config(ta.Agent, s, "node24")
	p, err := pool.New(cfg) // for the guard to speak to
	if err != nil {
		t.Fatal(err)
	}
	st.pools["node24"] = p
	w, err := cfg.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Alive == nil || !cfg.Alive(w) {
		t.Error("the pool takes a living container for a dead one, or does not look")
	}
	close(die)
	<-w.container.Exited()
	if cfg.Alive != nil && cfg.Alive(w) {
		t.Error("the pool takes a dead container for a living one")
	}
	if err := w.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
