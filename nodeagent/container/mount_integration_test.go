//go:build integration

package container_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sanfran.dev/nodeagent/container"
)

func TestMountAppearsInARunningContainer(t *testing.T) {
	eachRuntime(t, mountAppearsInARunningContainer)
}

func mountAppearsInARunningContainer(t *testing.T, h *host) {
	s := h.serve(t, "mounts", nil)
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "index.js"), []byte("module.exports = () => 'late'"), 0o644); err != nil {
		t.Fatal(err)
	}
	volume := t.TempDir()
	for dir := volume; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		_ = os.Chmod(dir, 0o755)
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 late"), 0o644); err != nil {
		t.Fatal(err)
	}
	s.expect(`return require("fs").existsSync("/data")`, "false")
	began := time.Now()
	for _, m := range []container.Mount{
		{Source: bundle, Target: "/function", ReadOnly: true},
		{Source: volume, Target: "/data/deep/volume"},
		{Source: hosts, Target: "/etc/hosts", ReadOnly: true},
		{Source: bundle, Target: "/bin/inner", ReadOnly: true}, // through the root's own link /bin → usr/bin
	} {
		if err := s.Mount(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("4 mounts took %v", time.Since(began))
	s.expect(`return require("/function/index.js")()`, "late")
	s.expect(`return require("/usr/bin/inner/index.js")()`, "late")
	s.expect(`return require("fs").readFileSync("/etc/hosts", "utf8")`, "127.0.0.1 late")
	s.expect(`require("fs").writeFileSync("/function/x", "")`, "error: EROFS")
	s.expect(`require("fs").writeFileSync("/data/deep/volume/x", "kept")`, "<nil>")
	s.expect(`require("fs").writeFileSync("/data/deep/x", "")`, "error: EROFS")
	options := s.eval(`return require("fs").readFileSync("/proc/self/mountinfo", "utf8").split("\n").filter(l => l.includes(" /function "))`)
	for _, want := range []string{"ro,", "nosuid", "nodev"} {
		if !strings.Contains(options, want) {
			t.Errorf("/function is mounted without %s: %s", want, options)
		}
	}
	if err := s.Mount(t.Context(), container.Mount{Source: bundle, Target: "/sealed", ReadOnly: true, NoExec: true}); err != nil {
		t.Fatal(err)
	}
	if options := s.eval(`return require("fs").readFileSync("/proc/self/mountinfo", "utf8").split("\n").filter(l => l.includes(" /sealed "))`); !strings.Contains(options, "noexec") {
		t.Errorf("/sealed is mounted without noexec: %s", options)
	}
	if err := s.Unmount(t.Context(), "/sealed"); err != nil {
		t.Error(err)
	}
	s.expect(`return require("fs").existsSync("/sealed/index.js")`, "false")
	if err := s.Unmount(t.Context(), "/data"); err == nil {
		t.Error("Unmount of a folder that is no mount point succeeded")
	}
	for _, target := range []string{"/tmp/x", "/proc/x", "/dev"} {
		if err := s.Mount(t.Context(), container.Mount{Source: bundle, Target: target}); err == nil {
			t.Errorf("Mount at %s, where the container has a filesystem of its own, succeeded", target)
		}
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(volume, "x")); string(data) != "kept" {
		t.Errorf("the volume's file after Destroy: %q, %v", data, err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

// A volume outlives its containers, each of which has another user id on the
// host. The next one owns what the last one wrote.
func TestVolumeKeepsItsOwnerFromContainerToContainer(t *testing.T) {
	eachRuntime(t, volumeKeepsItsOwnerFromContainerToContainer)
}

func volumeKeepsItsOwnerFromContainerToContainer(t *testing.T, h *host) {
	volume := t.TempDir()
	for _, id := range []string{"one", "two"} {
		s := h.serve(t, id, nil)
		if err := s.Mount(t.Context(), container.Mount{Source: volume, Target: "/data"}); err != nil {
			t.Fatal(err)
		}
		if id == "two" {
			s.expect(`return require("fs").readFileSync("/data/x", "utf8")`, "one")
			s.expect(`return require("fs").statSync("/data/x").uid`, "65534")
		}
		s.expect(`require("fs").writeFileSync("/data/x", "`+id+`", {mode: 0o600})`, "<nil>")
		s.expect(`require("fs").chmodSync("/data", 0o700)`, "<nil>")
		if err := s.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(volume, "x")); string(data) != "two" {
		t.Errorf("the volume's file: %q, %v", data, err)
	}
}

// A tenant with a writable volume plants links in it; a mount point on such a
// path must stay inside, whatever they say.
func TestMountPointsNeverLeaveTheContainer(t *testing.T) {
	eachRuntime(t, mountPointsNeverLeaveTheContainer)
}

func mountPointsNeverLeaveTheContainer(t *testing.T, h *host) {
	s := h.serve(t, "links", nil)
	volume, outside, bundle := t.TempDir(), t.TempDir(), t.TempDir()
	if err := s.Mount(t.Context(), container.Mount{Source: volume, Target: "/data"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"absolute": outside, "dots": "../../../../../.." + outside, "direct": outside + "/made"} {
		if err := os.Symlink(to, filepath.Join(volume, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, target := range []string{"/data/absolute/a", "/data/dots/b", "/data/direct", "/data/absolute"} {
		err := s.Mount(t.Context(), container.Mount{Source: bundle, Target: target, ReadOnly: true})
		t.Logf("%s: %v", target, err)
	}
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) > 0 {
		t.Errorf("mount points were made outside of the container: %v, %v", entries, err)
	}
	if info, _ := os.Stat(outside); info.Mode().Perm() != 0o700 {
		t.Errorf("the mode of a directory outside was changed to %v", info.Mode())
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	if bytes.Contains(mounts, []byte(outside)) {
		t.Error("something was mounted outside of the container")
	}
}
