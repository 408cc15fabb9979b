//go:build integration

package podaddress

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// inside is set for the copy of the test binary that runs in network and mount
// namespaces of its own, where nothing it does can touch the machine.
const inside = "SANFRAN_TEST_INSIDE"

// bpffs is where that copy mounts a BPF filesystem.
var bpffs string

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		os.Exit(again())
	}
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

// again runs this binary once more, as root of new namespaces.
func again() int {
	child := exec.Command("/proc/self/exe", os.Args[1:]...)
	child.Env = append(os.Environ(), inside+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS, // makes mounts private, too
		Pdeathsig:    syscall.SIGKILL,
	}
	err := child.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "these tests need root, to make network and mount namespaces:", err)
	return 1
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
