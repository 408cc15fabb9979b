package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sweep removes what earlier runs left: namespaces for which keep is false, ports
// without a namespace, files without a mount. The others are taken over, whole or
// not at all, and returned: the caller owns them. Call it once after Open, before
// the first Create.
//
// The cases, each left by a death at another instruction: a file only; a mounted
// namespace without a port; a port without an alias; a port that is not on the
// bridge yet; a complete namespace; a port whose file is gone.
func (n *Network) Sweep(ctx context.Context, keep func(id string) bool) ([]*Namespace, error) {
	ports, err := n.ports()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(n.config.Dir)
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var (
		kept   []*Namespace
		failed []error
	)
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return kept, fmt.Errorf("sweep network namespaces: %w", errors.Join(append(failed, err)...))
		}
		id := entry.Name()
		addr, complete := ports[portName(id)]
		delete(ports, portName(id))
		if complete && keep(id) && isNamespace(filepath.Join(n.config.Dir, id)) && n.addrs.claim(addr) {
			ns := &Namespace{ID: id, Path: filepath.Join(n.config.Dir, id), Addr: addr, network: n}
			n.remember(ns)
			kept = append(kept, ns)
			continue
		}
		if ns := n.known(id); ns != nil {
			failed = append(failed, ns.Close(ctx))
			continue
		}
		failed = append(failed, n.remove(ctx, id))
	}
	// What is left belongs to no file, whether it got as far as its alias or not.
	stray, err := n.strayPorts(kept)
	if err != nil {
		return kept, errors.Join(append(failed, err)...)
	}
	for _, name := range stray {
		if err := n.removePort(name); err != nil {
			failed = append(failed, err)
		}
	}
	return kept, errors.Join(failed...)
}

func (n *Network) known(id string) *Namespace {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.open[id]
}

// ports are the complete ports of the bridge, with the container's address; none
// without a bridge.
func (n *Network) ports() (map[string]netip.Addr, error) {
	bridge, err := n.links.LinkByName(n.config.Bridge)
	if isGone(err) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", n.config.Bridge, err)
	}
	links, err := n.links.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	ports := map[string]netip.Addr{}
	for _, link := range links {
		attrs := link.Attrs()
		id, addr, ok := parseAlias(attrs.Alias)
		if ok && attrs.MasterIndex == bridge.Attrs().Index && attrs.Name == portName(id) {
			ports[attrs.Name] = addr
		}
	}
	return ports, nil
}

// strayPorts are the interfaces named like our ports that belong to no namespace
// of kept.
func (n *Network) strayPorts(kept []*Namespace) ([]string, error) {
	links, err := n.links.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	owned := map[string]bool{}
	for _, ns := range kept {
		owned[portName(ns.ID)] = true
	}
	var stray []string
	for _, link := range links {
		name := link.Attrs().Name
		if link.Type() == "veth" && isPortName(name) && !owned[name] {
			stray = append(stray, name)
		}
	}
	return stray, nil
}

// isPortName says whether an interface's name is of the form portName gives.
func isPortName(name string) bool {
	digits, ok := strings.CutPrefix(name, portPrefix)
	return ok && len(digits) == 12 && strings.Trim(digits, "0123456789abcdef") == ""
}

// isNamespace says whether a namespace is mounted on the file.
func isNamespace(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && int64(fs.Type) == unix.NSFS_MAGIC
}
