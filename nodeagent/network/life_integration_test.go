//go:build integration

package network

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/network/ranges"
)

// ours lists the interfaces and files that exist because of us.
func ours(t *testing.T, dir string) (found []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name := link.Attrs().Name; strings.HasPrefix(name, portPrefix) || name == DefaultBridge {
			found = append(found, name)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		found = append(found, entry.Name())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), dir+"/") {
		found = append(found, "a mount in "+dir)
	}
	return found
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	dir := t.TempDir()
	n := openNetworkIn(t, dir)
	ns := create(t, n, "one")
	for range 2 {
		if err := ns.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{DefaultBridge}, ours(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The id may be used again.
	create(t, n, "one")
	if err := n.Teardown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if found := ours(t, dir); found != nil {
		t.Errorf("left: %v", found)
	}
	openNetworkIn(t, dir) // for the clean-up
}

func TestIDIsUsedOnce(t *testing.T) {
	n := openNetwork(t)
	ns := create(t, n, "one")
	if _, err := n.Create(t.Context(), "one"); !errors.Is(err, os.ErrExist) {
		t.Errorf("got %v, want %v", err, os.ErrExist)
	}
	if !isNamespace(ns.Path) {
		t.Error("the first one suffered")
	}
	for _, id := range []string{"", ".", "..", "a/b", ".hidden", strings.Repeat("a", 129)} {
		if _, err := n.Create(t.Context(), id); err == nil {
			t.Errorf("id %q was accepted", id)
		}
	}
}

func TestFailedCreateLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	n := openNetworkIn(t, dir)
	// Somebody took the name of the port.
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portName("one")
	if err := netlink.LinkAdd(&netlink.Ifb{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	if ns, err := n.Create(t.Context(), "one"); err == nil {
		t.Fatalf("created %v", ns)
	}
	if diff := cmp.Diff([]string{DefaultBridge}, ours(t, dir)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	create(t, n, "one")
}

func TestRestartKeepsWhatIsInUseAndSweepsTheRest(t *testing.T) {
	serve(t, world, ":80")
	dir := t.TempDir()
	first, err := Open(t.Context(), Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	kept, left := create(t, first, "kept"), create(t, first, "left")
	// Deaths at other instructions: a file without a mount, a mount without a
	// port, a port without its file, a port that never got onto the bridge.
	if err := os.WriteFile(filepath.Join(dir, "file-only"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	portless := create(t, first, "portless")
	if err := first.removePort(portName(portless.ID)); err != nil {
		t.Fatal(err)
	}
	fileless := create(t, first, "fileless")
	if err := errors.Join(unmountAll(fileless.Path), os.Remove(fileless.Path)); err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = portName("unplugged")
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}

	second := openNetworkIn(t, dir)
	got, err := second.Sweep(t.Context(), func(id string) bool { return id != left.ID })
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].ID != kept.ID || got[0].Addr != kept.Addr || got[0].Path != kept.Path {
		t.Fatalf("kept %v, want %v", got, kept)
	}
	want := []string{DefaultBridge, portName("kept"), "kept", "a mount in " + dir}
	found := ours(t, dir)
	slices.Sort(want)
	slices.Sort(found)
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	mustReach(t, got[0].Path, worldAddr+":80", nodeAddr)
	for range 3 {
		if ns := create(t, second, "new-"+fmt.Sprint(time.Now().UnixNano())); ns.Addr == kept.Addr {
			t.Errorf("address %v was given twice", ns.Addr)
		}
	}
}

func TestRangeInUseIsRefused(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr("10.246.9.9/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, addr); err != nil {
		t.Fatal(err)
	}
	defer netlink.AddrDel(lo, addr)
	if _, err := Open(t.Context(), Config{Dir: t.TempDir()}); !errors.Is(err, ranges.ErrInUse) {
		t.Errorf("got %v, want %v", err, ranges.ErrInUse)
	}
}

func TestStrangersInterfaceIsNotTakenForTheBridge(t *testing.T) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = DefaultBridge
	other := &netlink.Ifb{LinkAttrs: attrs}
	if err := netlink.LinkAdd(other); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(other)
	n, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err == nil {
		n.Close()
		t.Fatal("another interface passed for the bridge")
	}
	if err := removeRules(); err != nil {
		t.Fatal(err)
	}
}

func TestManyAtOnce(t *testing.T) {
	n := openNetwork(t)
	const count = 40
	var group errgroup.Group
	group.SetLimit(8)
	made := make([]*Namespace, count)
	start := time.Now()
	for i := range count {
		group.Go(func() (err error) {
			made[i], err = n.Create(context.Background(), fmt.Sprintf("container-%d", i))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	creation := time.Since(start)
	seen := map[string]bool{}
	for _, ns := range made {
		if seen[ns.Addr.String()] {
			t.Errorf("address %v twice", ns.Addr)
		}
		seen[ns.Addr.String()] = true
	}
	start = time.Now()
	for _, ns := range made {
		group.Go(func() error { return ns.Close(context.Background()) })
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d namespaces, 8 at a time: created in %v, %v each; removed in %v, %v each",
		count, creation, creation/count, time.Since(start), time.Since(start)/count)
}

func TestPortsAreIsolated(t *testing.T) {
	n := openNetwork(t)
	ns := create(t, n, "one")
	links, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	port, err := links.LinkByName(portName(ns.ID))
	if err != nil {
		t.Fatal(err)
	}
	info, err := links.LinkGetProtinfo(port)
	if err != nil {
		t.Fatal(err)
	}
	if !info.Isolated {
		t.Error("the port is not isolated")
	}
}
