package nodeagent

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// A bundle that reaches out of itself is refused when its pod is assigned, with
// the reason, and nothing of it is anywhere. Package bundle has every case; here
// it is the whole way.
func TestHostileBundlesAreRefused(t *testing.T) {
	a := startTestAgent(t, nil)
	outside := filepath.Join(t.TempDir(), "planted")
	climb := strings.Repeat("../", 20) + strings.TrimPrefix(outside, "/")
	code := tar.Header{Typeflag: tar.TypeReg, Name: "index.js"}
	n := 0
	for name, headers := range map[string][]tar.Header{
		"a path that climbs":          {{Typeflag: tar.TypeReg, Name: climb}},
		"an absolute path":            {{Typeflag: tar.TypeReg, Name: outside}},
		"a symlink that climbs":       {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: climb}},
		"an absolute symlink":         {{Typeflag: tar.TypeSymlink, Name: "out", Linkname: "/etc"}},
		"a file through a symlink":    {{Typeflag: tar.TypeSymlink, Name: "lib", Linkname: "."}, {Typeflag: tar.TypeReg, Name: "lib/planted"}},
		"a hard link that climbs":     {{Typeflag: tar.TypeLink, Name: "out", Linkname: climb}},
		"a device of characters":      {{Typeflag: tar.TypeChar, Name: "mem", Devmajor: 1, Devminor: 1}},
		"a device of blocks":          {{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}},
		"a pipe":                      {{Typeflag: tar.TypeFifo, Name: "pipe"}},
		"more than 512 MiB, unpacked": {{Typeflag: tar.TypeReg, Name: "bomb", Size: 1 << 40}},
	} {
		n++
		pod := assignment(fmt.Sprintf("hostile-%d", n), fmt.Sprintf("10.245.21.%d", n), a.cp.store(hostileArchive(t, append(slices.Clone(headers), code))))
		a.cp.assign(pod)
		s := a.cp.waitState(pod, agentv1.PodState_POD_STATE_FAILED)
		if s.GetReason() != ReasonBundleRefused {
			t.Errorf("%s: %s %s, want %s", name, s.GetReason(), s.GetMessage(), ReasonBundleRefused)
		}
		t.Logf("%s: %s", name, s.GetMessage())
		a.cp.withdraw(pod, 0)
		a.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Errorf("%s is there", outside)
	}
	if err := filepath.WalkDir(a.cfg.BundleDir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch entry.Name() {
		case "planted", "out", "lib", "mem", "disk", "pipe", "bomb", "index.js":
			t.Errorf("left of refused bundles: %s", name)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// hostileArchive has headers as they are, and only so many bytes that they can
// be read.
func hostileArchive(t *testing.T, headers []tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	for _, header := range headers {
		w := tar.NewWriter(&buf) // never closed: the next may come before its bytes
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	buf.Write(make([]byte, 1024))
	return buf.Bytes()
}
