//go:build integration

package container_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
)

func TestNetworkNamespaceByPath(t *testing.T) { eachRuntime(t, networkNamespaceByPath) }

func networkNamespaceByPath(t *testing.T, h *host) {
	path, inode := makeNetNS(t)
	s := h.serve(t, "netns", func(c *container.Config) { c.NetNS = path })
	s.expect(`return require("fs").readlinkSync("/proc/self/ns/net")`, "net:["+inode+"]")
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the caller's network namespace after Destroy: %v", err)
	}
}

// makeNetNS makes a network namespace, as `ip netns add` does.
func makeNetNS(t *testing.T) (path, inode string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	cmd := make(chan error)
	go func() { // its thread dies with it, and so takes the namespace along
		cmd <- func() error {
			runtime.LockOSThread()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			link, err := os.Readlink("/proc/thread-self/ns/net")
			if err != nil {
				return err
			}
			inode = strings.TrimSuffix(strings.TrimPrefix(link, "net:["), "]")
			return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-cmd; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return path, inode
}
