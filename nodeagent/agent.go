package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/compilecache"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/logs"
	"sanfran.dev/nodeagent/network"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

// Bounds of the HTTP servers. Both are clients inside the cluster, but also
// any pod that knows an address.
const (
	headerTimeout   = 10 * time.Second
	idleConnTimeout = 2 * time.Minute
	// maxHeaderBytes is four times what Node.js takes, and a sixteenth of what
	// Go would keep in memory for each connection.
	maxHeaderBytes = 64 << 10
)

// stopMargin is how much longer than StopGrace a container may take to say that
// it has drained, and then to refuse what routers still send.
const stopMargin = 3 * time.Second

// ErrNotReady wraps every reason why an agent is not ready.
var ErrNotReady = errors.New("agent not ready")

// Agent is the agent of one node. Make it with New, run it once with Run.
type Agent struct {
	cfg  Config
	log  *slog.Logger
	conn Conn

	// ctx ends when everything of the agent is to end.
	ctx    context.Context
	cancel context.CancelFunc
	tasks  tasks

	bundles Bundles
	logs    *logs.Store
	// compiled is nil where functions have no compile cache.
	compiled   *compilecache.Store
	warmers    Warmers
	addresses  *addressBook
	pods       *pods
	routes     *router.Table
	forwarder  *router.Forwarder
	outbox     *outbox
	snapshot   *snapshot
	quarantine *quarantine
	leaving    *leaving
	// asking holds a place for each stuck function that is asked where it is.
	asking  chan struct{}
	orphans *orphans
	// clients bounds the connections to pods' addresses that lead to this agent,
	// routers those to its data listener.
	clients, routers *router.Connections
	metrics          *metrics
	// share is what functions can have of this node; set before the control
	// plane is told.
	share Capacity
	// room is what is left of its memory.
	room *room
	// acquiring counts pods that wait for a container.
	acquiring atomic.Int32
	// away counts requests that wait for pods whose home agents cannot be reached.
	away      atomic.Int64
	evictions evictions
	// mountEmptyDirs is another in tests without root.
	mountEmptyDirs func(dir string, sizes map[string]int64) error
	// measureNode is what all containers of the node use.
	measureNode func() (container.Usage, error)
	// dialAddress connects as any client of the node does; dialInside connects to
	// the loopback device of a network namespace, by its file.
	dialAddress func(ctx context.Context, network, address string) (net.Conn, error)
	dialInside  func(ctx context.Context, namespace string, port uint16) (net.Conn, error)
	keep        *keeper
	// resumes says that this process goes on where an earlier one has died.
	resumes bool
	// outlived are leased containers of that one, until they are with their pods.
	outlived []*outlived

	// readiness is why the agent is not ready; nil: it is.
	readiness atomic.Pointer[error]
	// stopping is set before an agent that stops says that it is not ready.
	stopping atomic.Bool
}

// New returns an agent that talks to the control plane over conn. Nothing of
// the node is touched before Run.
func New(cfg Config, conn Conn) (*Agent, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	clients, routers := router.NewConnections(cfg.ClientConnections), router.NewConnections(2*cfg.ClientConnections)
	keep := &keeper{client: cfg.Supervisor, log: cfg.Log}
	a := &Agent{
		cfg: cfg, log: cfg.Log, conn: conn, share: cfg.Capacity, mountEmptyDirs: mountEmptyDirs,
		routes: router.NewTable(), outbox: newOutbox(), snapshot: newSnapshot(cfg), quarantine: newQuarantine(cfg.PortRest, quarantineSize, keep), keep: keep, leaving: newLeaving(), clients: clients, routers: routers, orphans: newOrphans(cfg.Log, clients), asking: make(chan struct{}, asksAtOnce), metrics: newMetrics(),
	}
	a.dialAddress, a.dialInside = new(net.Dialer).DialContext, network.DialLoopback
	a.measureNode = func() (container.Usage, error) { return container.Usage{}, nil }
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.forwarder = router.NewForwarder(router.ForwarderConfig{Log: cfg.Log})
	a.pods = newPods(a)
	a.room = newRoom(unlimited, func() {})
	a.metrics.watch(a)
	a.notReady("it is starting")
	return a, nil
}

func (a *Agent) notReady(why string) {
	err := fmt.Errorf("%w: %s", ErrNotReady, why)
	a.readiness.Store(&err)
}

// Ready returns why the agent cannot serve, or nil. It can once it knows its
// pods and the routes, be it from the control plane or from what it has kept,
// and also while the control plane is away later.
func (a *Agent) Ready(context.Context) error {
	if err := a.readiness.Load(); err != nil {
		return *err
	}
	return nil
}

// Metrics serves the agent's metrics in Prometheus' format.
func (a *Agent) Metrics() http.Handler { return a.metrics.handler() }

// Handler serves /healthz, /readyz and /metrics.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := a.Ready(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", a.Metrics())
	return mux
}

// changed is called after every change of a pod, without its lock.
func (a *Agent) changed(p *pod) {
	a.addresses.refresh(p)
	a.outbox.add(p)
}

// Run makes the node ready, serves until ctx ends, and takes everything down
// again: it leaves nothing on the node. The error says what could not be set
// up, failed while serving, or was left behind.
func (a *Agent) Run(ctx context.Context) (err error) {
	defer a.cancel()
	node, err := openNode(ctx, a)
	if err != nil {
		return fmt.Errorf("agent on %s: %w", a.cfg.NodeName, err)
	}
	defer func() {
		if closeErr := node.close(); closeErr != nil {
			err = errors.Join(err, fmt.Errorf("agent on %s: clean up: %w", a.cfg.NodeName, closeErr))
		}
	}()
	edge := newControlPlane(a, a.conn)
	bundles, err := openBundles(a, edge)
	if err != nil {
		return err
	}
	defer bundles.Close()
	a.bundles = bundles

	// Until containers have ended, which is in node.close.
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx))
	var kept sync.WaitGroup
	kept.Go(func() { a.keepNode(keeping, node.parts) })
	defer func() { stop(); kept.Wait() }()
	return a.serve(ctx, edge, node.dataListener, node.podListener)
}

// serve runs everything above the node until ctx ends or a listener fails.
func (a *Agent) serve(ctx context.Context, edge *controlPlane, data, pod net.Listener) error {
	var err error
	if a.logs, err = logs.Open(a.cfg.Logs); err != nil {
		return err
	}
	watcher, err := router.NewWatcher(router.WatcherConfig{
		Client: routesv1.NewRouteServiceClient(a.conn), Table: a.routes, Log: a.log,
		File: filepath.Join(a.cfg.WorkDir, "routes"), OnChange: a.addresses.routesChanged,
	})
	if err != nil {
		return err
	}
	servers := []*http.Server{
		newServer(http.HandlerFunc(a.serveData), a.log, a.routers),
		speakHTTP2(newServer(a.addressHandler(), a.log, a.clients)),
		a.orphans.server,
	}
	a.takeOverOutlived()
	restored := a.snapshot.restore(a)
	if a.resumes {
		a.pods.removeFolders()
	}
	a.outlived = nil
	if restored {
		edge.syncedOnce.Do(func() { close(edge.synced) })
	}
	failed := make(chan error, len(servers))
	var serving, edges sync.WaitGroup
	for i, listener := range []net.Listener{a.routers.Listener(data), a.clients.Listener(pod), a.orphans} {
		serving.Go(func() {
			if err := servers[i].Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serve on %v: %w", listener.Addr(), err)
			}
		})
	}
	edgeCtx, stopEdge := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEdge()
	edges.Go(func() { edge.run(edgeCtx) })
	edges.Go(func() { a.snapshot.run(edgeCtx, a) })
	edges.Go(func() { _ = watcher.Run(edgeCtx) }) // ends with its context's error only
	edges.Go(func() { a.becomeReady(edgeCtx, edge, watcher) })

	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	a.stopping.Store(true)
	a.notReady("it is stopping")
	a.log.Info("the agent stops", "err", err)
	kept := err == nil && a.handOver()
	// Pods serve what has begun; then they go, and the control plane hears of
	// it while there is a stream.
	err = errors.Join(err, a.shutdown(servers))
	serving.Wait()
	failpoint.Here("stop: no request is served any more")
	a.snapshot.save(a)
	a.pods.close(a.cfg.StopGrace, kept)
	// Containers that drain by a longer grace, be it a deleted pod's own, have
	// had their time too: whoever stops the agent does not wait for them.
	overdue := time.AfterFunc(a.cfg.StopGrace+stopMargin, a.cancel)
	a.tasks.close()
	overdue.Stop()
	failpoint.Here("stop: pods gone")
	stopEdge()
	edges.Wait()
	a.forwarder.Close()
	a.quarantine.close()
	return err
}

// newServer returns a server of connections that bound has admitted.
func newServer(handler http.Handler, log *slog.Logger, bound *router.Connections) *http.Server {
	server := &http.Server{
		Handler: router.WholeRequests(router.FewHeaders(handler)), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleConnTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	bound.Bound(server)
	return server
}

// speakHTTP2 has a server of clients at pods' addresses speak HTTP/2, too, to those
// that know that before (RFC 9113, section 3.3). Routers speak HTTP/1.1.
func speakHTTP2(server *http.Server) *http.Server {
	server.Protocols = new(http.Protocols)
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	server.HTTP2 = router.HTTP2Limits()
	return server
}

// becomeReady waits for what the agent must know before it can serve.
func (a *Agent) becomeReady(ctx context.Context, edge *controlPlane, watcher *router.Watcher) {
	for _, known := range []struct {
		what string
		done <-chan struct{}
	}{{"its assignments", edge.synced}, {"the routes", watcher.Ready()}} {
		a.notReady("it waits for the control plane to tell " + known.what)
		select {
		case <-known.done:
		case <-ctx.Done():
			return
		}
	}
	if err := a.addresses.removeStale(); err != nil {
		a.log.Error("addresses of pods that are no more", "err", err)
	}
	if ctx.Err() == nil {
		a.readiness.Store(nil)
		if a.stopping.Load() { // it began meanwhile, and is not over for a while
			a.notReady("it is stopping")
			return
		}
		a.log.Info("the agent is ready")
	}
}

// shutdown lets requests in flight finish, and cuts off what takes too long.
func (a *Agent) shutdown(servers []*http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), a.cfg.StopGrace)
	defer cancel()
	errs := make([]error, len(servers))
	var wg sync.WaitGroup
	for i, s := range servers {
		wg.Go(func() {
			if err := s.Shutdown(ctx); err != nil {
				errs[i] = errors.Join(fmt.Errorf("requests were cut off after %v: %w", a.cfg.StopGrace, err), s.Close())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// clearPods removes the folders of an earlier process's pods.
func clearPods(cfg Config) error {
	dir := filepath.Join(cfg.WorkDir, "pods")
	// Deleting would go through what is mounted.
	if err := unmountEmptyDirs(filepath.Join(dir, "*")); err != nil {
		return fmt.Errorf("remove the emptyDirs of an earlier run's pods: %w", err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove the folders of an earlier run's pods: %w", err)
	}
	return nil
}
