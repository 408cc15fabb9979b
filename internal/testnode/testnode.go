// Package testnode gives tests that need root a node of their own: the test
// binary runs once more, in a network and a mount namespace of its own, where
// nothing it does can touch the machine.
package testnode

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// inside is set for the copy of the test binary that runs in the namespaces.
const inside = "SANFRAN_TEST_INSIDE"

// Enter returns in the copy of the test binary that is root of namespaces of
// its own: network, without a link that is up, and mount, whose mounts are
// private. In the first process it starts that copy with the same arguments,
// waits for it, and exits with its code. It is for the beginning of TestMain.
func Enter() {
	if os.Getenv(inside) != "" {
		return
	}
	os.Exit(again())
}

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
