//go:build integration

package container_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"sanfran.dev/internal/testnode"
	"sanfran.dev/nodeagent/container/containertest"
)

func TestMain(m *testing.M) {
	containertest.RunStandIn()
	testnode.Enter()
	if err := prepareNode(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need root:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func prepareNode() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), testnode.HideUnified())
}
