//go:build integration

package socket

import (
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"

	"sanfran.dev/internal/testnode"
)

func TestMain(m *testing.M) {
	testnode.Enter()
	if err := loopbackUp(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
