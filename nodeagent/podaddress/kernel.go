package podaddress

import (
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

// skLookup leads connections by a BPF program, its link and its maps.
type skLookup struct {
	pinDir    string
	addresses *ebpf.Map
	sockets   *ebpf.Map
	program   *ebpf.Program
	link      link.Link
}

func (k *skLookup) close() error {
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
	if k.addresses != nil {
		errs = append(errs, k.addresses.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close BPF objects of function pods' addresses: %w", err)
	}
	return nil
}

// openSkLookup attaches the program, or replaces that of an earlier run.
func openSkLookup(config Config) (_ *skLookup, err error) {
	if err := preparePinDir(config.PinDir); err != nil {
		return nil, err
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the limit on locked memory for BPF maps: %w", err)
	}
	k := &skLookup{pinDir: config.PinDir}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.addresses, err = pinnedMap(config.PinDir, pinAssigned, assignedSpec()); err != nil {
		return nil, err
	}
	if k.sockets, err = pinnedMap(config.PinDir, pinSockets, socketsSpec()); err != nil {
		return nil, err
	}
	if err := withListener(config.Listener, config.hasIPv6(), func(fd int) error { return k.sockets.Put(agentKey, uint64(fd)) }); err != nil {
		return nil, fmt.Errorf("lead function pods' addresses %v to the agent's listener: %w", config.CIDRs, err)
	}
	failpoint.Here("pod addresses: maps pinned")
	if k.program, err = ebpf.NewProgram(lookupProgram(config.CIDRs, k.addresses, k.sockets)); err != nil {
		return nil, fmt.Errorf("load sk_lookup program (needs Linux 5.9 and CAP_BPF, CAP_NET_ADMIN; older kernels have %s): %w", TProxy, err)
	}
	if k.link, err = attach(config.PinDir, k.program); err != nil {
		return nil, err
	}
	failpoint.Here("pod addresses: program attached")
	// The program stands: what an earlier run of the other way has left may go.
	if err := removeTable(); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *skLookup) assign(addr netip.Addr) error {
	// In this order a socket left by the address's last owner never answers.
	if err := k.park(addr); err != nil {
		return err
	}
	err := k.addresses.Put(keyOf(addr), uint32(1))
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("%d addresses are assigned already, the most there can be: %w", MaxAddresses, err)
	}
	return err
}

func (k *skLookup) direct(addr netip.Addr, fds []int) error {
	before, err := k.buckets(addr)
	if err != nil {
		return err
	}
	if before == 0 {
		return ErrNotAssigned
	}
	for bucket, fd := range fds {
		if err := k.sockets.Put(keyOf(addr).in(uint32(bucket)), uint64(fd)); err != nil {
			return err
		}
	}
	now := uint32(len(fds))
	if now == before {
		return nil
	}
	// Every bucket that is looked at has its socket all the time.
	if err := k.addresses.Put(keyOf(addr), now); err != nil {
		return err
	}
	return k.undirect(addr, now, before)
}

// buckets is how many an address has; 0: it is not assigned.
func (k *skLookup) buckets(addr netip.Addr) (n uint32, err error) {
	err = k.addresses.Lookup(keyOf(addr), &n)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, nil
	}
	return n, err
}

// undirect takes the sockets of buckets away, from first on.
func (k *skLookup) undirect(addr netip.Addr, first, buckets uint32) error {
	for bucket := first; bucket < buckets; bucket++ {
		if err := k.sockets.Delete(keyOf(addr).in(bucket)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take the container's socket away: %w", err)
		}
	}
	return nil
}

func (k *skLookup) park(addr netip.Addr) error {
	buckets, err := k.buckets(addr)
	if err != nil {
		return err
	}
	if err := k.undirect(addr, 0, max(buckets, 1)); err != nil || buckets <= 1 {
		return err
	}
	return k.addresses.Put(keyOf(addr), uint32(1))
}

func (k *skLookup) remove(addr netip.Addr) error {
	buckets, err := k.buckets(addr)
	if err != nil {
		return err
	}
	if err := k.addresses.Delete(keyOf(addr)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return err
	}
	return k.undirect(addr, 0, max(buckets, 1))
}

func (k *skLookup) assigned() ([]netip.Addr, error) {
	var (
		addrs   []netip.Addr
		key     key
		buckets uint32
	)
	entries := k.addresses.Iterate()
	for entries.Next(&key, &buckets) {
		addrs = append(addrs, key.addr())
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("list assigned addresses: %w", err)
	}
	return addrs, nil
}

// mend looks after the link and what is pinned. The maps themselves cannot go
// while this process holds them.
func (k *skLookup) mend() (mended []string, err error) {
	attached, err := belongsHere(k.link)
	if err != nil {
		return nil, err
	}
	if !attached {
		if err := errors.Join(k.link.Unpin(), k.link.Close()); err != nil {
			return nil, fmt.Errorf("give up the link of a program that was detached: %w", err)
		}
		if k.link, err = attach(k.pinDir, k.program); err != nil {
			return nil, err
		}
		mended = append(mended, "sk_lookup program on the network namespace")
	}
	if err := preparePinDir(k.pinDir); err != nil {
		return mended, err
	}
	for name, object := range map[string]pinned{pinAssigned: k.addresses, pinSockets: k.sockets, pinLink: k.link} {
		path := filepath.Join(k.pinDir, name)
		if _, err := os.Stat(path); err == nil {
			continue
		} else if !errors.Is(err, os.ErrNotExist) {
			return mended, fmt.Errorf("pinned %s: %w", path, err)
		}
		// It believes to be pinned, and would not be again.
		if err := errors.Join(object.Unpin(), object.Pin(path)); err != nil {
			return mended, fmt.Errorf("pin to %s: %w", path, err)
		}
		mended = append(mended, path)
	}
	return mended, nil
}

// pinned is what has a file on a bpffs.
type pinned interface {
	Pin(path string) error
	Unpin() error
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

// uninstall removes the program, then the maps.
func (k *skLookup) uninstall() error {
	// Detached as well as unpinned: another process may hold the link open.
	if err := errors.Join(k.link.Detach(), k.link.Unpin()); err != nil {
		return fmt.Errorf("detach sk_lookup program: %w", err)
	}
	return removeMaps(k.pinDir)
}

func removeMaps(pinDir string) error {
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

// removeSkLookup removes what an earlier run of this way has left, if anything.
func removeSkLookup(pinDir string) error {
	if pinDir == "" {
		return nil
	}
	left, err := link.LoadPinnedLink(filepath.Join(pinDir, pinLink), nil)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if _, err := os.Stat(pinDir); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return removeMaps(pinDir)
	case err != nil:
		return fmt.Errorf("load pinned link of an earlier run: %w", err)
	}
	if err := errors.Join(left.Detach(), left.Unpin(), left.Close()); err != nil {
		return fmt.Errorf("detach the sk_lookup program of an earlier run: %w", err)
	}
	return removeMaps(pinDir)
}
