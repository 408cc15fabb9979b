package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"time"

	"sanfran.dev/nodeagent/pool"
)

// refillRest is how long a cold request has the node to itself before the
// container it took is replaced: several times what it needs, and a tenth of what a
// start takes.
const refillRest = 20 * time.Millisecond

// stock is one pool of warm containers for each runtime.
type stock struct {
	pools map[string]*pool.Pool[*warmContainer]
	// most is how many containers of a runtime are kept at most, whatever the
	// target: together they take half of the node's memory for functions.
	most int
	log  *slog.Logger
}

// openPool opens the pools, with containers of an earlier process in them: those
// that are warm, and those that are leased.
func openPool(a *Agent, s *starter, warm, leased []*warmContainer) (*stock, error) {
	st := &stock{pools: map[string]*pool.Pool[*warmContainer]{}, most: math.MaxInt, log: a.log}
	if share := a.share.MemoryBytes; share > 0 {
		st.most = max(1, int(share/2/warmBytes)/len(a.cfg.Runtimes))
	}
	for runtime := range a.cfg.Runtimes {
		p, err := pool.New(st.config(a, s, runtime))
		if err != nil {
			return nil, errors.Join(err, st.Close(context.WithoutCancel(a.ctx)))
		}
		st.pools[runtime] = p
	}
	// Nothing starts before the map is whole: guard reads it.
	adopted := map[string]int{}
	for _, w := range warm {
		adopted[w.runtime]++
		st.pools[w.runtime].Adopt(w, false)
		st.guard(w)
	}
	for _, w := range leased {
		st.pools[w.runtime].Adopt(w, true)
	}
	for runtime := range st.pools {
		target := a.cfg.PoolUnused
		if runtime == a.cfg.DefaultRuntime {
			target = a.cfg.PoolTarget
		}
		// What the control plane asked for before it will ask for again: nothing is
		// destroyed until then.
		if err := st.SetTarget(runtime, max(target, adopted[runtime])); err != nil {
			return nil, errors.Join(err, st.Close(context.WithoutCancel(a.ctx)))
		}
	}
	return st, nil
}

// config is how the pool of one runtime works.
func (st *stock) config(a *Agent, s *starter, runtime string) pool.Config[*warmContainer] {
	return pool.Config[*warmContainer]{
		Rest: refillRest, StartTimeout: a.cfg.BootTimeout, Logger: a.log.With("runtime", runtime),
		Start: func(ctx context.Context) (*warmContainer, error) {
			started, err := a.room.forStart(ctx)
			if err != nil {
				return nil, err
			}
			defer started()
			w, err := s.Start(ctx, runtime)
			if err == nil {
				st.guard(w)
			}
			return w, err
		},
		Destroy: func(ctx context.Context, w *warmContainer) error { return w.Destroy(ctx) },
		// The guard may speak before the pool has the container: without this
		// look a dead one would be kept, and handed to a pod.
		Alive: (*warmContainer).Alive,
	}
}

// guard tells the pool when a container dies before anybody takes it. Destroy
// ends the goroutine.
func (st *stock) guard(w *warmContainer) {
	w.guards.Go(func() {
		select {
		case <-w.container.Exited():
		case <-w.conn.Done():
		}
		st.pools[w.runtime].Lost(w)
	})
}

// Acquire implements Warmers.
func (st *stock) Acquire(ctx context.Context, runtime string) (*warmContainer, error) {
	p, ok := st.pools[runtime]
	if !ok {
		return nil, &failure{reason: ReasonRuntimeUnknown, message: fmt.Sprintf("this node makes no containers of the runtime %q, only of %v", runtime, slices.Sorted(maps.Keys(st.pools)))}
	}
	return p.Acquire(ctx)
}

// Drain implements Warmers.
func (st *stock) Drain(w *warmContainer) { _ = st.pools[w.runtime].Drain(w) } // a second call changes nothing

// Done implements Warmers.
func (st *stock) Done(w *warmContainer) { _ = st.pools[w.runtime].Done(w) }

// SetTarget implements Warmers.
func (st *stock) SetTarget(runtime string, warm int) error {
	p, ok := st.pools[runtime]
	if !ok {
		return fmt.Errorf("this node makes no containers of the runtime %q", runtime)
	}
	if warm > st.most {
		st.log.Warn("the pool's target is more than half of the node's memory for functions holds; fewer are kept", "runtime", runtime, "target", warm, "kept", st.most)
		warm = st.most
	}
	return p.SetTarget(warm)
}

// Status implements Warmers.
func (st *stock) Status() []PoolStatus {
	all := make([]PoolStatus, 0, len(st.pools))
	for _, runtime := range slices.Sorted(maps.Keys(st.pools)) {
		s := st.pools[runtime].Stats()
		one := PoolStatus{Runtime: runtime, Warming: s.Warming, Warm: s.Warm, Leased: s.Leased, Draining: s.Draining, StartFailures: int64(s.Failed), FailuresInARow: s.Failures}
		if s.LastFailure != nil {
			one.LastFailure = s.LastFailure.Error()
		}
		all = append(all, one)
	}
	return all
}

// Close destroys what is in store and waits for it. Every leased container is
// gone by then.
func (st *stock) Close(ctx context.Context) error {
	var errs []error
	for runtime, p := range st.pools {
		if err := p.Close(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", runtime, err))
		}
	}
	return errors.Join(errs...)
}
