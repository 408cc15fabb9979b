package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sanfran.dev/internal/failpoint"
)

// containerInterface is the name of the interface inside a namespace.
const containerInterface = "eth0"

// portPrefix begins the names of the bridge's ports; aliasPrefix the alias of a
// port, which says whose it is and so survives the agent: prefix, id, "/", address.
const (
	portPrefix  = "sfv"
	aliasPrefix = "sanfran/"
)

// validID is what may name a namespace: it becomes a file's name.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Namespace is the network namespace of one container. It exists, without any
// process in it, until Close.
type Namespace struct {
	// ID is the name it was created under.
	ID string
	// Path is a file to enter it by (setns, or the OCI runtime's namespace
	// path).
	Path string
	// Addr is the container's address.
	Addr netip.Addr

	network *Network
	once    sync.Mutex
	closed  bool
}

// Create makes a namespace, connected and confined. id is the caller's; it must be
// unique, begin with a letter or digit and hold only those and "_.-", 128 at most.
// The caller owns the result.
func (n *Network) Create(ctx context.Context, id string) (_ *Namespace, err error) {
	if !validID.MatchString(id) {
		return nil, fmt.Errorf("network namespace %q: an id is 1 to 128 letters, digits, or _.- after the first", id)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", id, err)
	}
	addr, err := n.addrs.take()
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", id, err)
	}
	ns := &Namespace{ID: id, Path: filepath.Join(n.config.Dir, id), Addr: addr, network: n}
	file, err := os.OpenFile(ns.Path, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_CLOEXEC, 0o400)
	if err != nil {
		n.addrs.give(addr)
		return nil, fmt.Errorf("network namespace %s: %w", id, err)
	}
	file.Close()
	n.remember(ns)
	failpoint.Here("network: file made")
	defer func() {
		if err != nil {
			err = errors.Join(err, ns.Close(context.WithoutCancel(ctx)))
		}
	}()
	if err := inNewNamespace(ns.Path, func() error { return n.configureInside(ns) }); err != nil {
		return nil, fmt.Errorf("network namespace %s: %w", id, err)
	}
	if err := n.plugIn(ns); err != nil {
		return nil, fmt.Errorf("network namespace %s: connect to bridge %s: %w", id, n.config.Bridge, err)
	}
	return ns, nil
}

// Close removes the namespace and its connection. Every process in it must be
// gone: one that is not keeps the namespace, without an interface, and makes this
// take a quarter of a second. It is idempotent, and may be tried again after an
// error.
func (ns *Namespace) Close(ctx context.Context) error {
	ns.once.Lock()
	defer ns.once.Unlock()
	if ns.closed {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", ns.ID, err)
	}
	n := ns.network
	if err := n.remove(ctx, ns.ID); err != nil {
		return err
	}
	ns.closed = true
	n.addrs.give(ns.Addr)
	n.mu.Lock()
	delete(n.open, ns.ID)
	n.mu.Unlock()
	return nil
}

func (n *Network) remember(ns *Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[ns.ID] = ns
}

// remove removes the port and the file of a namespace, whatever of them exists.
//
// Without its file a namespace that no process is in dies, and takes the pair of
// interfaces along: that is several times cheaper than removing a pair, which
// holds the kernel's lock on all networks for 20 ms, and many die at once as
// quickly as one. So the port is removed by hand only if it stays.
func (n *Network) remove(ctx context.Context, id string) error {
	path := filepath.Join(n.config.Dir, id)
	if err := failpoint.After("network: namespace unmounted", unmountAll(path)); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", id, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace %s: %w", id, err)
	}
	failpoint.Here("network: file removed")
	gone, err := n.awaitNoPort(ctx, portName(id))
	if err == nil && !gone {
		err = n.removePort(portName(id))
	}
	if err != nil {
		return fmt.Errorf("remove network namespace %s: %w", id, err)
	}
	return nil
}

// How long and how often awaitNoPort looks.
const (
	portPatience = 250 * time.Millisecond
	portInterval = 5 * time.Millisecond
)

// awaitNoPort waits a little until there is no such port, and says whether so.
func (n *Network) awaitNoPort(ctx context.Context, name string) (gone bool, err error) {
	ticks := time.NewTicker(portInterval)
	defer ticks.Stop()
	for end := time.Now().Add(portPatience); ; {
		if _, err := n.links.LinkByName(name); isGone(err) {
			return true, nil
		} else if err != nil {
			return false, fmt.Errorf("port %s: %w", name, err)
		}
		if time.Now().After(end) {
			return false, nil
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return false, fmt.Errorf("wait until port %s is gone: %w", name, ctx.Err())
		}
	}
}

// removePort removes a port; that it is gone is not an error.
func (n *Network) removePort(name string) error {
	port, err := n.links.LinkByName(name)
	if err == nil {
		err = n.links.LinkDel(port)
	}
	// The kernel may be quicker: a namespace that dies takes its port along.
	if err != nil && !isGone(err) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove port %s: %w", name, err)
	}
	return nil
}

// inNewNamespace runs configure on a thread in a new network namespace, then
// mounts the namespace on the file at path, which keeps it.
func inNewNamespace(path string, configure func() error) error {
	return onThreadOfItsOwn(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make it (needs CAP_SYS_ADMIN): %w", err)
		}
		if err := configure(); err != nil {
			return err
		}
		if err := failpoint.After("network: namespace mounted", unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")); err != nil {
			return fmt.Errorf("mount it on %s: %w", path, err)
		}
		return nil
	})
}

// onThreadOfItsOwn runs do on a thread that ends with it, so that no other
// goroutine ever runs in the namespace it enters. It is never the main thread:
// that one cannot end, and /proc/self speaks of its namespaces.
func onThreadOfItsOwn(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			// While this goroutine keeps the main thread, another gets another.
			done <- onThreadOfItsOwn(do)
			return
		}
		// Never unlocked: the runtime ends the thread with the goroutine.
		done <- do()
	}()
	return <-done
}

// configureInside makes the pair of interfaces and addresses the inner one. It
// runs in the new namespace.
func (n *Network) configureInside(ns *Namespace) error {
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink inside: %w", err)
	}
	defer links.Close()
	// Before eth0 exists; lo keeps ::1.
	if err := n.setIPv6("default"); err != nil {
		return err
	}
	// As Kubernetes does for ordinary pods: no port needs a privilege.
	if err := writeSysctl("net/ipv4/ip_unprivileged_port_start", "0"); err != nil {
		return err
	}
	lo, err := links.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo inside: %w", err)
	}
	if err := links.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo inside: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = containerInterface, n.config.MTU
	// The host's end is made first and without a bridge: nothing flows yet.
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: portName(ns.ID), PeerMTU: uint32(n.config.MTU), PeerNamespace: netlink.NsFd(int(n.host.Fd()))}
	if err := failpoint.After("network: pair made", links.LinkAdd(pair)); err != nil {
		return fmt.Errorf("make interface pair %s–%s: %w", containerInterface, portName(ns.ID), err)
	}
	inner, err := links.LinkByName(containerInterface)
	if err != nil {
		return fmt.Errorf("%s inside: %w", containerInterface, err)
	}
	addrs := []netip.Addr{ns.Addr}
	if n.config.CIDR6.IsValid() {
		addrs = append(addrs, n.config.address6(ns.Addr))
	}
	for i, cidr := range n.config.cidrs() {
		if err := links.AddrAdd(inner, addressIn(cidr, addrs[i])); err != nil {
			return fmt.Errorf("address %v inside: %w", addrs[i], err)
		}
	}
	if err := links.LinkSetUp(inner); err != nil {
		return fmt.Errorf("%s inside: %w", containerInterface, err)
	}
	for _, cidr := range n.config.cidrs() {
		if err := links.RouteAdd(&netlink.Route{LinkIndex: inner.Attrs().Index, Gw: cidr.Addr().Next().AsSlice()}); err != nil {
			return fmt.Errorf("default route inside: %w", err)
		}
	}
	return nil
}

// plugIn makes the host's end a port of the bridge that reaches no other port.
func (n *Network) plugIn(ns *Namespace) error {
	bridge, err := n.links.LinkByName(n.config.Bridge)
	if err != nil {
		return err
	}
	port, err := n.links.LinkByName(portName(ns.ID))
	if err != nil {
		return err
	}
	// The alias first: from here on a restarted agent knows whose port it is.
	if err := failpoint.After("network: port named", n.links.LinkSetAlias(port, aliasOf(ns.ID, ns.Addr))); err != nil {
		return fmt.Errorf("alias: %w", err)
	}
	if err := failpoint.After("network: port joined", n.links.LinkSetMasterByIndex(port, bridge.Attrs().Index)); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	// The port is still down, so it is isolated before it carries anything.
	if err := n.links.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("isolate: %w", err)
	}
	if err := n.links.LinkSetUp(port); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return nil
}

// portName is the name of a namespace's port on the bridge: the kernel allows 15
// bytes, an id may be longer.
func portName(id string) string {
	sum := sha256.Sum256([]byte(id))
	return portPrefix + hex.EncodeToString(sum[:6])
}

func aliasOf(id string, addr netip.Addr) string {
	return aliasPrefix + id + "/" + addr.String()
}

func parseAlias(alias string) (id string, addr netip.Addr, ok bool) {
	rest, ok := strings.CutPrefix(alias, aliasPrefix)
	if !ok {
		return "", netip.Addr{}, false
	}
	id, text, ok := strings.Cut(rest, "/")
	if !ok || !validID.MatchString(id) {
		return "", netip.Addr{}, false
	}
	addr, err := netip.ParseAddr(text)
	return id, addr, err == nil
}

// unmountAll unmounts everything from path.
func unmountAll(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil // not, or no longer, a mount
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}
