package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRootfsFolder(t *testing.T) {
	onPath(t, "npm", "exit 0\n")
	b := newBuilder(t)
	l := withTiny(t, b)
	dir, src := filepath.Join(t.TempDir(), "rootfs"), t.TempDir()
	unpack := func(main string) string {
		t.Helper()
		worker := newTree()
		if main != "" {
			workerIn(t, src, main)
			var err error
			if worker, err = b.workerTree(t.Context(), src); err != nil {
				t.Fatal(err)
			}
		}
		made, err := b.unpackRootfs(t.Context(), dir, tiny, l, worker)
		if err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(filepath.Join(dir, "tiny")); err != nil || target != filepath.Base(made) {
			t.Errorf("the link leads to %q (%v), want %q", target, err, filepath.Base(made))
		}
		return made
	}
	read := func(parts ...string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(parts...))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}

	bare, first := unpack(""), unpack("one")
	if got := read(first, "opt/sanfran/worker/worker.js") + read(first, "usr/local/bin/node"); got != "onenode" {
		t.Errorf("worker and Node.js are %q", got)
	}
	if _, err := os.Stat(filepath.Join(bare, "opt/sanfran")); err == nil {
		t.Error("the folder without a worker got one")
	}
	// From here on nothing may be fetched or built again.
	if err := os.RemoveAll(b.downloads()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "")
	if again := unpack("one"); again != first {
		t.Errorf("the second run gives %s, the first %s", again, first)
	}
	second := unpack("two")
	if second == first || read(first, "opt/sanfran/worker/worker.js") != "one" || read(second, "opt/sanfran/worker/worker.js") != "two" {
		t.Error("another worker has to come in a folder of its own, and leave the first alone")
	}
	a, _ := os.Stat(filepath.Join(first, "usr/local/bin/node"))
	c, _ := os.Stat(filepath.Join(second, "usr/local/bin/node"))
	if !os.SameFile(a, c) {
		t.Error("folders do not share their Node.js")
	}
	if diff := cmp.Diff([]string{"tiny"}, namesWithout(t, dir, "tiny-")); diff != "" {
		t.Errorf("left behind: %s", diff)
	}
}

func TestRootfsThatCannotBeMadeLeavesNothing(t *testing.T) {
	t.Setenv("PATH", "")
	b := newBuilder(t)
	l := withTiny(t, newBuilder(t)) // another cache: here there are no packages
	dir := t.TempDir()
	if _, err := b.unpackRootfs(t.Context(), dir, tiny, l, newTree()); err == nil {
		t.Fatal("no error")
	}
	if diff := cmp.Diff([]string(nil), namesWithout(t, dir, "-")); diff != "" {
		t.Error(diff)
	}
}

func TestLinkInTheWayIsNotReplaced(t *testing.T) {
	link := filepath.Join(t.TempDir(), "node24")
	write(t, filepath.Join(link, "precious"), "x")
	if err := pointLink(link, "node24-1"); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Error(err)
	}
}

// namesWithout lists dir less the names that begin with prefix.
func namesWithout(t *testing.T, dir, prefix string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestCacheFolder(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"SANFRAN_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c"},
		{map[string]string{"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/sanfran"},
		{map[string]string{"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/sanfran"},
		{map[string]string{}, ""},
	} {
		got, err := cacheDir(func(name string) string { return c.env[name] })
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%v: %q, %v; want %q", c.env, got, err, c.want)
		}
	}
}
