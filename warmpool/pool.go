package warmpool

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

const (
	tickEvery = 250 * time.Millisecond
	// ledgerEvery bounds how often the ledger is written: a write is an fsync,
	// and nothing waits for it.
	ledgerEvery = 100 * time.Millisecond
	sweepEvery  = 10 * time.Minute
	// sweepMinAge covers the time between the storing of a bundle and the
	// assignment that names it, and pods that are re-created.
	sweepMinAge = time.Hour
)

// Config is what a Pool needs.
type Config struct {
	// DataDir holds the store's file. It is made if missing.
	DataDir string
	// Generation is greater than that of every earlier run of this control
	// plane.
	Generation uint64
	// MaxBundleBytes bounds one bundle.
	MaxBundleBytes int64
	Sizing         PoolSizing
	Log            *slog.Logger
}

// Pool is the warm pool as the rest of the control plane sees it: pods and
// bundles go in, statuses come out. It joins Books, RouteTable and Store, and
// runs what happens by itself. It is safe for concurrent use.
type Pool struct {
	books  *Books
	routes *RouteTable
	store  *Store
	// streams are calls into agents.
	streams *Streams
	log     *slog.Logger

	mu      sync.Mutex
	changed func(podUID string)
}

// Open opens the store in the data folder and the books over it. A ledger that
// cannot be read is dropped with a warning: nothing but the speed of recovery
// depends on it.
func Open(config Config) (*Pool, error) {
	store, err := OpenStore(filepath.Join(config.DataDir, "sanfran.db"), config.MaxBundleBytes)
	if err != nil {
		return nil, err
	}
	ledger, err := store.ReadLedger()
	if err != nil {
		config.Log.Warn("the ledger is dropped, recovery waits for the agents", "error", err)
		ledger = nil
	}
	routes := NewRouteTable(config.Generation)
	rng := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	books := NewBooks(config.Generation, ledger, routes, config.Sizing, rng, time.Now())
	return &Pool{books: books, routes: routes, store: store, streams: NewStreams(books), log: config.Log}, nil
}

// Close closes the store. Run must have returned.
func (p *Pool) Close() error { return p.store.Close() }

// Server returns the pool's gRPC services, for as long as ctx lasts.
func (p *Pool) Server(ctx context.Context) *Server {
	return NewServer(ctx, p.books, p.routes, p.store, p.streams, p.log)
}

// Assign makes or keeps a home for a pod; see [Books.Assign].
func (p *Pool) Assign(_ context.Context, assignment *agentv1.Assignment, route *routesv1.Route) error {
	return p.books.Assign(assignment, route, time.Now())
}

// Withdraw ends a pod; see [Books.Withdraw].
func (p *Pool) Withdraw(_ context.Context, podUID string, grace time.Duration) error {
	p.books.Withdraw(podUID, grace, time.Now())
	return nil
}

// Status is how a pod is; see [Books.Status].
func (p *Pool) Status(podUID string) *agentv1.PodStatus { return p.books.Status(podUID) }

// Subscribe has changed called after every change of a pod's status, by Run.
// Several changes may be told as one.
func (p *Pool) Subscribe(changed func(podUID string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.changed = changed
}

// Synced says that every pod that exists has been assigned, or cannot be;
// see [Books.Resynced].
func (p *Pool) Synced(podUIDs []string) {
	p.log.Info("pods are known, agents are told theirs", "pods", len(podUIDs))
	p.books.Resynced(time.Now())
}

// Capacity is what agents give to functions; see [Books.Capacity].
func (p *Pool) Capacity() (*agentv1.Capacity, <-chan struct{}) { return p.books.Capacity() }

// Pools are the agents' stores of warm containers by node; see [Books.Pools].
func (p *Pool) Pools() map[string][]*agentv1.PoolStatus { return p.books.Pools() }

// ReadLog reads what a pod has written; see [Streams.ReadLog].
func (p *Pool) ReadLog(ctx context.Context, want *streamsv1.ReadLog) (io.ReadCloser, error) {
	return p.streams.ReadLog(ctx, want)
}

// Exec runs a program in a pod's container; see [Streams.Exec].
func (p *Pool) Exec(ctx context.Context, want *streamsv1.Exec, stdin io.Reader, stdout, stderr io.Writer, sizes <-chan *streamsv1.TerminalSize) (int, error) {
	return p.streams.Exec(ctx, want, stdin, stdout, stderr, sizes)
}

// Attach follows what a pod's container writes; see [Streams.Attach].
func (p *Pool) Attach(ctx context.Context, want *streamsv1.Attach, stdout, stderr io.Writer) error {
	return p.streams.Attach(ctx, want, stdout, stderr)
}

// Forward joins a connection to a port of a pod; see [Streams.Forward].
func (p *Pool) Forward(ctx context.Context, want *streamsv1.Forward, conn io.ReadWriteCloser) error {
	return p.streams.Forward(ctx, want, conn)
}

// Measure asks every agent what its pods use; see [Streams.Measure].
func (p *Pool) Measure(ctx context.Context) (map[string][]*streamsv1.Usage, error) {
	return p.streams.Measure(ctx)
}

// Put stores a bundle; see [Store.Put].
func (p *Pool) Put(ctx context.Context, digest string, r io.Reader) error {
	return p.store.Put(ctx, digest, r)
}

// Run does what happens by itself, until ctx ends: silent agents are presumed
// gone, statuses are passed on, the ledger is written, bundles that no pod
// needs are swept.
func (p *Pool) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() { p.tell(ctx) })
	loops.Go(func() { p.keepLedger(ctx) })
	loops.Go(func() { p.sweep(ctx) })
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.books.Tick(now)
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Pool) tell(ctx context.Context) {
	for {
		select {
		case <-p.books.ChangedWake():
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		for _, uid := range p.books.TakeChanged() {
			if changed != nil {
				changed(uid)
			}
		}
	}
}

func (p *Pool) keepLedger(ctx context.Context) {
	pause := time.NewTicker(ledgerEvery)
	defer pause.Stop()
	failed := make(map[string]Home)
	for {
		stopping := false
		select {
		case <-p.books.HomeWake():
		case <-ctx.Done():
			stopping = true
		}
		homes := p.books.TakeHomes()
		for uid, home := range failed {
			if _, newer := homes[uid]; !newer {
				homes[uid] = home
			}
		}
		clear(failed)
		if err := p.store.WriteLedger(homes); err != nil {
			p.log.Error("the ledger was not written; it is tried again with the next change", "error", err)
			failed = homes
		}
		if stopping {
			return
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
}

func (p *Pool) sweep(ctx context.Context) {
	// Nothing is known to be unused before every pod has been assigned.
	select {
	case <-p.books.Settled():
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		n, err := p.store.Sweep(p.books.Uses, sweepMinAge)
		switch {
		case err != nil:
			p.log.Error("bundles were not swept", "error", err)
		case n > 0:
			p.log.Info("unused bundles removed", "count", n)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// Check says why the pool is not ready to serve, or nil.
func (p *Pool) Check(context.Context) error {
	if !isClosed(p.books.ResyncedDone()) {
		return fmt.Errorf("the pods of the virtual node are not known yet")
	}
	return nil
}

// Nodes are the nodes whose agents are connected, sorted.
func (p *Pool) Nodes() []string {
	var nodes []string
	for _, a := range p.books.Agents() {
		if a.Connected {
			nodes = append(nodes, a.Node)
		}
	}
	slices.Sort(nodes)
	return nodes
}
