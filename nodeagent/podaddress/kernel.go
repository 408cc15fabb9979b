package podaddress

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"sanfran.dev/internal/failpoint"
)

// netnsPath is the network namespace of the calling thread, which is the node's.
// That of /proc/self is the main thread's, which a program may have left.
const netnsPath = "/proc/thread-self/ns/net"

// Names of what is pinned. The maps' names carry the version of their layout: a
// build that changes it pins new ones beside the old.
const (
	pinLink     = "link"
	pinAssigned = "assigned-v1"
	pinSockets  = "sockets-v1"
)

// kernel is what an Owner holds open of what lives in the kernel.
type kernel struct {
	assigned *ebpf.Map
	sockets  *ebpf.Map
	program  *ebpf.Program
	link     link.Link
}

func (k *kernel) close() error {
	var errs []error
	if k.link != nil {
		errs = append(errs, k.link.Close())
	}
	if k.program != nil {
		errs = append(errs, k.program.Close())
	}
	if k.sockets != nil {
		errs = append(errs, k.sockets.Close())
	}
	if k.assigned != nil {
		errs = append(errs, k.assigned.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close BPF objects of function pods' addresses: %w", err)
	}
	return nil
}

func open(ctx context.Context, config Config) (_ *Owner, err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("own function pods' addresses %v: %w", config.CIDR, err)
	}
	if err := preflight(config.CIDR); err != nil {
		return nil, err
	}
	if err := preparePinDir(config.PinDir); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory for BPF maps: %w", err)
	}
	// A route of another range, left from before the range was changed, goes
	// before the program that protects it is replaced.
	if err := removeRoutes(config.CIDR); err != nil {
		return nil, err
	}
	k := &kernel{}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.assigned, err = pinnedMap(config.PinDir, pinAssigned, assignedSpec()); err != nil {
		return nil, err
	}
	if k.sockets, err = pinnedMap(config.PinDir, pinSockets, socketsSpec()); err != nil {
		return nil, err
	}
	if err := putSocket(k.sockets, agentKey, config.Listener); err != nil {
		return nil, fmt.Errorf("lead function pods' addresses %v to the agent's listener: %w", config.CIDR, err)
	}
	failpoint.Here("pod addresses: maps pinned")
	if k.program, err = ebpf.NewProgram(lookupProgram(config.CIDR, k.assigned, k.sockets)); err != nil {
		return nil, fmt.Errorf("load sk_lookup program (needs Linux 5.9 and CAP_BPF, CAP_NET_ADMIN): %w", err)
	}
	if k.link, err = attach(config.PinDir, k.program); err != nil {
		return nil, err
	}
	failpoint.Here("pod addresses: program attached")
	owner := &Owner{cidr: config.CIDR, pinDir: config.PinDir, kernel: k}
	if err := owner.removeForeign(); err != nil {
		return nil, err
	}
	if err := addRoute(config.CIDR, config.Source); err != nil {
		return nil, err
	}
	config.Logger.InfoContext(ctx, "function pods' addresses are owned", "cidr", config.CIDR, "pinned", config.PinDir)
	return owner, nil
}

// removeForeign takes addresses out of the maps that an earlier run assigned in
// another range.
func (o *Owner) removeForeign() error {
	addrs, err := o.Assigned()
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		if o.cidr.Contains(addr) {
			continue
		}
		if err := errors.Join(o.kernel.assigned.Delete(keyOf(addr)), o.undirect(addr)); err != nil {
			return fmt.Errorf("forget %v of an earlier range: %w", addr, err)
		}
	}
	return nil
}

// attach attaches the program to the network namespace by a pinned link, or makes
// the link of an earlier run use it.
func attach(pinDir string, program *ebpf.Program) (link.Link, error) {
	path := filepath.Join(pinDir, pinLink)
	pinned, err := link.LoadPinnedLink(path, nil)
	switch {
	case err == nil:
		usable, err := belongsHere(pinned)
		if err == nil && usable {
			if err = pinned.Update(program); err == nil {
				return pinned, nil
			}
			err = fmt.Errorf("replace the program of pinned link %s: %w", path, err)
		}
		if err != nil {
			return nil, errors.Join(err, pinned.Close())
		}
		if err := errors.Join(pinned.Unpin(), pinned.Close()); err != nil {
			return nil, fmt.Errorf("remove pinned link %s of a network namespace that is gone: %w", path, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("load pinned link %s: %w", path, err)
	}

	ns, err := os.Open(netnsPath)
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	defer ns.Close()
	attached, err := link.AttachNetNs(int(ns.Fd()), program)
	if err != nil {
		return nil, fmt.Errorf("attach sk_lookup program to the network namespace: %w", err)
	}
	if err := attached.Pin(path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin link to %s: %w", path, err), attached.Close())
	}
	return attached, nil
}

// belongsHere says whether a pinned link is attached to this network namespace;
// not so if its namespace is gone. One that is attached to another living
// namespace is somebody else's, an error.
func belongsHere(pinned link.Link) (bool, error) {
	info, err := pinned.Info()
	if err != nil {
		return false, fmt.Errorf("pinned link: %w", err)
	}
	ns := info.NetNs()
	if ns == nil {
		return false, fmt.Errorf("pinned link is of type %v, not of a network namespace; remove it or pin elsewhere", info.Type)
	}
	var own unix.Stat_t
	if err := unix.Stat(netnsPath, &own); err != nil {
		return false, fmt.Errorf("own network namespace: %w", err)
	}
	switch uint64(ns.NetnsInode) {
	case own.Ino:
		return true, nil
	case 0:
		return false, nil
	}
	return false, fmt.Errorf("pinned link belongs to network namespace %d, this process is in %d: give every node a pin folder of its own", ns.NetnsInode, own.Ino)
}

// pinnedMap opens a map pinned by an earlier run, or creates and pins it.
func pinnedMap(pinDir, name string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	path := filepath.Join(pinDir, name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		if err := spec.Compatible(m); err != nil {
			return nil, errors.Join(fmt.Errorf("pinned map %s is not of this version's layout; remove it while no agent runs: %w", path, err), m.Close())
		}
		return m, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("load pinned map %s: %w", path, err)
	}
	if m, err = ebpf.NewMap(spec); err != nil {
		return nil, fmt.Errorf("create BPF map %s: %w", name, err)
	}
	if err := m.Pin(path); err != nil {
		return nil, errors.Join(fmt.Errorf("pin map to %s: %w", path, err), m.Close())
	}
	return m, nil
}

func preparePinDir(dir string) error {
	parent := dir
	for {
		_, err := os.Stat(parent)
		if err == nil {
			break
		}
		if !errors.Is(err, os.ErrNotExist) || parent == filepath.Dir(parent) {
			return fmt.Errorf("pin folder %s: %w", dir, err)
		}
		parent = filepath.Dir(parent)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(parent, &fs); err != nil {
		return fmt.Errorf("pin folder %s: %w", dir, os.NewSyscallError("statfs", err))
	}
	if int64(fs.Type) != unix.BPF_FS_MAGIC {
		return fmt.Errorf("pin folder %s is not on a BPF filesystem (%s is of type %#x): mount one on the node with `mount -t bpf bpf /sys/fs/bpf` and mount it into the agent's pod from the host, with mount propagation", dir, parent, fs.Type)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pin folder: %w", err)
	}
	return nil
}

// uninstall removes the routes, then the program, then the maps.
func uninstall(ctx context.Context, cidr netip.Prefix, pinDir string, k *kernel) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("give up function pods' addresses %v: %w", cidr, err)
	}
	if err := removeRoutes(netip.Prefix{}); err != nil {
		return err
	}
	// Detached as well as unpinned: another process may hold the link open.
	if err := errors.Join(k.link.Detach(), k.link.Unpin()); err != nil {
		return fmt.Errorf("detach sk_lookup program: %w", err)
	}
	for _, name := range []string{pinSockets, pinAssigned} {
		if err := os.Remove(filepath.Join(pinDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("unpin map: %w", err)
		}
	}
	if err := os.Remove(pinDir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove pin folder: %w", err)
	}
	return nil
}
