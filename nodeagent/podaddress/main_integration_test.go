//go:build integration

package podaddress

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sanfran.dev/internal/testnode"
)

// bpffs is where that copy mounts a BPF filesystem.
var bpffs string

func TestMain(m *testing.M) {
	testnode.Enter()
	var err error
	if bpffs, err = prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		err := errors.Join(unix.Unmount(bpffs, unix.MNT_DETACH), os.Remove(bpffs))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = max(code, 1)
		}
		os.Exit(code)
	}))
}

func prepare() (string, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return "", err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "sanfran-bpffs-")
	if err != nil {
		return "", err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return "", fmt.Errorf("mount a BPF filesystem: %w", err)
	}
	return dir, nil
}
