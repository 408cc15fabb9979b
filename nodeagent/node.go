package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/bundle"
	"sanfran.dev/nodeagent/compilecache"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/inspector"
	"sanfran.dev/nodeagent/network"
	"sanfran.dev/nodeagent/podaddress"
	"sanfran.dev/nodeagent/socket"
)

// cleanupTimeout bounds each step of taking the node's things down.
const cleanupTimeout = 30 * time.Second

// node is everything the agent sets up on its node.
type node struct {
	dataListener, podListener net.Listener
	// parts are looked after while the agent runs.
	parts []reconciler
	// undo takes down what stands, the last first.
	undo []func(context.Context) error
}

// openNode sets the node up. The order is what keeps it safe: the rule that
// confines containers' sockets stands before anything else; what an earlier
// process left goes before anything new comes; pod addresses lead to a listener
// that is there; containers come last.
func openNode(ctx context.Context, a *Agent) (_ *node, err error) {
	cfg := a.cfg
	n := &node{}
	defer func() {
		// Containers that were taken over need what stands, the rules above all. The
		// supervisor ends them when this process has, and the next start sweeps.
		if err != nil && !a.resumes {
			err = errors.Join(err, n.close())
		}
	}()

	sockets, err := socket.NewRange(ctx, socket.Config{NodeIP: cfg.NodeIP, FunctionCIDRs: cfg.podCIDRs()})
	if err != nil {
		return nil, err
	}
	n.undo = append(n.undo, socket.Remove)

	failpoint.Here("node: sockets confined")
	cgroups, err := container.PrepareCgroups(container.CgroupOptions{Base: cfg.CgroupBase})
	if err != nil {
		return nil, err
	}
	n.undo = append(n.undo, func(context.Context) error { return cgroups.Close() })
	a.measureNode = func() (container.Usage, error) { return cgroups.Usage("") }
	runc, err := container.NewRunc(container.RuncOptions{
		Binary: cfg.OCIRuntime, WorkDir: filepath.Join(cfg.WorkDir, "containers"), Cgroups: cgroups, PidsLimit: cfg.PidsLimit, Parent: cfg.parent(), Logger: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	n.undo = append(n.undo, func(context.Context) error { return runc.Close() })
	failpoint.Here("node: work directory ready")
	if a.compiled, err = compilecache.Open(filepath.Join(cfg.CacheDir, "compiled"), compilecache.Limits{Budget: cfg.CompileCacheBytes}); err != nil {
		return nil, err
	}
	legacy, err := a.adopt(ctx, adopter{runc, sockets})
	if err != nil {
		return nil, err
	}
	if err := failpoint.After("node: containers swept", runc.Sweep(ctx)); err != nil {
		return nil, err
	}
	for _, name := range legacy.forsaken {
		a.keep.forget(name)
	}
	// Nothing uses the functions' memory now, so any limit can be set; or what uses
	// it has been taken over, and the limits are as they were.
	functions, err := cgroups.Divide(container.Resources{MilliCPU: cfg.Capacity.MilliCPU, MemoryBytes: cfg.Capacity.MemoryBytes}, cfg.Reserve)
	if err != nil {
		return nil, err
	}
	a.share.MilliCPU, a.share.MemoryBytes = functions.MilliCPU, functions.MemoryBytes
	a.room = newRoom(cgroups.MemoryLeft, a.makeRoom)
	if !a.resumes {
		if err := clearPods(cfg); err != nil {
			return nil, err
		}
	}

	networks, err := network.Open(ctx, network.Config{
		Dir: filepath.Join(cfg.WorkDir, "netns"), Bridge: cfg.Bridge, CIDR: cfg.ContainerCIDR, CIDR6: cfg.ContainerCIDR6,
		FunctionCIDRs: cfg.podCIDRs(), DeniedPorts: append([]uint16{cfg.DataPort, cfg.PodPort}, network.DefaultDeniedPorts...),
		Connections: cfg.Connections, NewConnections: cfg.NewConnections, Logger: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	n.undo = append(n.undo, networks.Teardown)
	failpoint.Here("node: network ready")
	ids := map[string]bool{}
	for _, w := range legacy.containers() {
		ids[w.container.ID()] = true
	}
	namespaces, err := networks.Sweep(ctx, func(id string) bool { return ids[id] })
	if err != nil {
		return nil, err
	}
	legacy.connect(namespaces, closerOf(ctx), dialInspector)

	if n.podListener, err = n.listen(a.keep, keptPodListener, netip.AddrPortFrom(cfg.NodeIP, cfg.PodPort), cfg.PodCIDR6.IsValid()); err != nil {
		return nil, err
	}
	if n.dataListener, err = n.listen(a.keep, keptDataListener, netip.AddrPortFrom(cfg.NodeIP, cfg.DataPort), false); err != nil {
		return nil, err
	}
	owner, err := podaddress.Open(ctx, podaddress.Config{
		CIDRs: cfg.podCIDRs(), Way: cfg.PodAddresses, PinDir: cfg.PinDir, Listener: n.podListener.(syscall.Conn),
		Sources: validAddrs(cfg.NodeIP, cfg.NodeIP6), Logger: cfg.Log,
	})
	if err != nil {
		return nil, err
	}
	n.undo = append(n.undo, owner.Uninstall)
	failpoint.Here("node: pod addresses owned")
	n.parts = []reconciler{sockets, networks, owner}
	a.addresses = newAddressBook(owner, cfg.Log)

	s := &starter{
		runtime: runc, rootFS: cfg.Runtimes, args: cfg.WorkerArgs, bootTimeout: cfg.BootTimeout, keep: a.keep, log: cfg.Log,
		sockets: func(ctx context.Context) (Socket, error) { return sockets.Open(ctx) },
		namespace: func(ctx context.Context, id string) (string, func() error, error) {
			ns, err := networks.Create(ctx, id)
			if err != nil {
				return "", nil, err
			}
			return ns.Path, closerOf(ctx)(ns), nil
		},
		inspector: dialInspector, connect: a.forwarder.Connect,
	}
	a.keep.nodeStands()
	store, err := openPool(a, s, legacy.warm, legacy.leased())
	if err != nil {
		return nil, err
	}
	a.outlived = legacy.outlived
	n.undo = append(n.undo, store.Close)
	a.warmers = store
	return n, nil
}

// dialInspector connects to the inspector within a network namespace.
func dialInspector(ctx context.Context, path string) (net.Conn, error) {
	return network.Dial(ctx, path, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), inspector.Port))
}

// closerOf returns how network namespaces are given back, whatever becomes of ctx.
func closerOf(ctx context.Context) func(*network.Namespace) func() error {
	return func(ns *network.Namespace) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
			defer cancel()
			return ns.Close(ctx)
		}
	}
}

// listen opens a listener that outlives this process, or goes on with it.
func (n *node) listen(keep *keeper, name string, address netip.AddrPort, bothFamilies bool) (net.Listener, error) {
	l, err := keep.listener(name, func() (net.Listener, error) { return socket.Listen(address, bothFamilies) })
	if err != nil {
		return nil, fmt.Errorf("is another agent running on this node? %w", err)
	}
	n.undo = append(n.undo, func(context.Context) error {
		keep.forget(name)
		return closeListener(l)
	})
	return l, nil
}

// close takes down what stands, in reverse order.
func (n *node) close() error {
	var errs []error
	for i := len(n.undo) - 1; i >= 0; i-- {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		errs = append(errs, n.undo[i](ctx))
		cancel()
		failpoint.Here("node: one more thing taken down")
	}
	return errors.Join(errs...)
}

// closeListener closes a listener that its server may have closed already.
func closeListener(l net.Listener) error {
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// openBundles opens the store of functions' code, which outlives the agent.
func openBundles(a *Agent, fetcher bundle.Fetcher) (*bundle.Store, error) {
	if err := os.MkdirAll(a.cfg.BundleDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of bundles: %w", err)
	}
	return bundle.Open(a.cfg.BundleDir, fetcher, bundle.Options{Budget: a.cfg.BundleBytes, Fetched: a.metrics.bundleFetched, Log: a.log})
}
