package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func newDownCommand(name *string) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "remove a cluster and everything it left on the machine",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			return down(command.Context(), os.Stderr, *name)
		},
	}
}

// down removes the cluster. It goes by what it finds on the machine, not by
// what is on record, so that it works after a crash at any point. Everything
// is tried; what could not be removed is told together.
func down(ctx context.Context, progress io.Writer, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("removing a cluster needs root; run it with sudo")
	}
	if _, err := os.Stat(stateBase()); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(stateBase(), 0o755); err != nil {
			return err
		}
	}
	unlock, err := lockFile(ctx, filepath.Join(stateBase(), ".lock"), func() {
		fmt.Fprintln(progress, "down: another command changes clusters; waiting for it")
	})
	if err != nil {
		return err
	}
	defer unlock()

	c := &cluster{Name: name}
	var failed []error
	note := func(err error) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	note(c.endNodes())
	note(c.removeNetwork(ctx))
	note(unmountBelow(c.path()))
	if len(failed) == 0 { // else what is on record is still needed
		note(os.RemoveAll(c.path()))
	}
	others, err := otherClusters()
	note(err)
	if len(failed) == 0 && len(others) == 0 {
		m, err := openMachine()
		note(err)
		if err == nil {
			note(m.restore())
		}
		os.Remove(filepath.Join(stateBase(), ".lock"))
		os.Remove(stateBase())
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("cluster %s is not all gone, `down` again may help: %w", name, err)
	}
	fmt.Fprintf(progress, "cluster %s is gone\n", name)
	return nil
}

// endNodes ends the first process of every node, and with it all the others,
// and removes their cgroups.
func (c *cluster) endNodes() error {
	names := map[string]bool{}
	if entries, err := os.ReadDir(c.path("nodes")); err == nil {
		for _, entry := range entries {
			names[entry.Name()] = true
		}
	}
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		found, err := filepath.Glob(filepath.Join(root, c.Name+"-node-*"))
		if err != nil {
			return err
		}
		for _, dir := range found {
			// Not the nodes of a cluster whose name begins with this one's.
			if strings.Trim(strings.TrimPrefix(filepath.Base(dir), c.Name+"-node-"), "0123456789") == "" {
				names[filepath.Base(dir)] = true
			}
		}
	}
	var failed []error
	for name := range names {
		if p, err := readJSON[process](c.path("nodes", name, "init.pid")); err == nil {
			if err := p.kill(); err != nil {
				failed = append(failed, err)
			}
		}
		if err := killCgroup(name); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// removeNetwork removes the cluster's devices and rules from the machine.
func (c *cluster) removeNetwork(ctx context.Context) error {
	var failed []error
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, link := range links {
		name := link.Attrs().Name
		if name != c.bridge() && !strings.HasPrefix(name, "sf"+c.id()+"-") {
			continue
		}
		var absent netlink.LinkNotFoundError
		if err := netlink.LinkDel(link); err != nil && !errors.As(err, &absent) && !errors.Is(err, unix.ENODEV) {
			failed = append(failed, fmt.Errorf("remove the network device %s: %w", name, err))
		}
	}
	if _, err := exec.LookPath("nft"); err == nil {
		script := fmt.Sprintf("table inet %[1]s {}\ndelete table inet %[1]s\n", c.table())
		if err := nft(ctx, nil, script); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// unmountBelow unmounts what is mounted at or below dir in the machine's view.
// Nodes mount in views of their own; this is for what somebody else did.
func unmountBelow(dir string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	points := mountsBelow(string(info), filepath.Dir(dir))
	slices.Reverse(points)
	for _, point := range points {
		if point != dir && !strings.HasPrefix(point, dir+"/") {
			continue
		}
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// otherClusters are those that have a folder.
func otherClusters() ([]string, error) {
	entries, err := os.ReadDir(stateBase())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}
