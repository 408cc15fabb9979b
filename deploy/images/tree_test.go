package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// tarOf writes headers, each followed by its name as content if it is a file.
func tarOf(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(tw, h.Name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestTarThatReachesOutsideIsRefused(t *testing.T) {
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	for name, headers := range map[string][]tar.Header{
		"parent":              {file("../evil")},
		"parent inside":       {file("a/../../evil")},
		"absolute":            {file("/etc/evil")},
		"below a link":        {link("a", "/etc"), file("a/evil")},
		"below a linked link": {link("a", "b"), link("b", "/etc"), file("a/evil")},
		"hard link out":       {{Typeflag: tar.TypeLink, Name: "a", Linkname: "../etc/passwd"}},
		"hard link unread":    {{Typeflag: tar.TypeLink, Name: "a", Linkname: "etc/passwd"}},
		"hard link to a link": {link("a", "/etc/passwd"), {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
		"device":              {{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}},
		"the root as a file":  {file(".")},
	} {
		if err := newTree().addTar(tarOf(t, headers...), keepAll); !errors.Is(err, errUnsafePath) {
			t.Errorf("%s: got %v, want errUnsafePath", name, err)
		}
	}
	// What is left out may not come in an innocent archive either.
	nothing := func(string) string { return "" }
	for _, h := range []tar.Header{file("../evil"), file("/etc/evil"), {Typeflag: tar.TypeChar, Name: "null"}} {
		if err := newTree().addTar(tarOf(t, h), nothing); !errors.Is(err, errUnsafePath) {
			t.Errorf("%s, left out: got %v, want errUnsafePath", h.Name, err)
		}
	}
}

func TestTarRoundTrip(t *testing.T) {
	in := newTree()
	if err := errors.Join(
		in.addFile("z/run", []byte("x"), true),
		in.addFile("a.txt", nil, false),
		in.addSymlink("l", "/z/run"),
		in.addDir("tmp", stickyTmp),
	); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := in.writeTar(&buf); err != nil {
		t.Fatal(err)
	}
	got := map[string]tar.Header{}
	var order []string
	for tr := tar.NewReader(&buf); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(entryTime) || h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: time %v, owner %d:%d %s:%s", h.Name, h.ModTime, h.Uid, h.Gid, h.Uname, h.Gname)
		}
		order = append(order, h.Name)
		got[h.Name] = *h
	}
	if diff := cmp.Diff([]string{"a.txt", "l", "tmp/", "z/", "z/run"}, order); diff != "" {
		t.Error(diff)
	}
	for name, mode := range map[string]int64{"a.txt": 0o644, "z/run": 0o755, "tmp/": 0o1777, "z/": 0o755} {
		if got[name].Mode != mode {
			t.Errorf("%s has mode %o, want %o", name, got[name].Mode, mode)
		}
	}
}

func TestUnpackKeepsModesWhateverTheUmask(t *testing.T) {
	tr := newTree()
	if err := errors.Join(tr.addFile("bin/run", []byte("x"), true), tr.addDir("tmp", stickyTmp), tr.addSymlink("l", "bin/run")); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := tr.unpack(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{"bin/run": 0o755, "tmp": fs.ModeDir | fs.ModeSticky | 0o777, "bin": fs.ModeDir | 0o755} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
	}
}

func TestUnpackStaysInItsFolder(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	tr := newTree()
	if err := tr.addFile("a/evil", []byte("x"), false); err != nil {
		t.Fatal(err)
	}
	if err := tr.unpack(dir); err == nil {
		t.Error("unpacking through a link that leaves the folder succeeded")
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("wrote %v outside", left)
	}
}

func TestFolderIsReadWithoutTimesAndStrayLinks(t *testing.T) {
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, "lib"), 0o700))
	must(os.WriteFile(filepath.Join(dir, "lib", "a.js"), []byte("1"), 0o600))
	must(os.Symlink("a.js", filepath.Join(dir, "lib", "b.js")))
	all := func(string, bool) bool { return false }
	first := newTree()
	must(first.addDirFrom(dir, "w", all))
	must(os.Chtimes(filepath.Join(dir, "lib", "a.js"), time.Unix(1, 0), time.Unix(1, 0)))
	second := newTree()
	must(second.addDirFrom(dir, "w", all))
	if first.digest() != second.digest() {
		t.Error("the digest depends on times")
	}
	if diff := cmp.Diff([]string{"w", "w/lib", "w/lib/a.js", "w/lib/b.js"}, first.names()); diff != "" {
		t.Error(diff)
	}
	for _, target := range []string{"/etc/passwd", "../../x"} {
		stray := filepath.Join(dir, "lib", "stray")
		must(os.Symlink(target, stray))
		if err := newTree().addDirFrom(dir, "w", all); !errors.Is(err, errUnsafePath) {
			t.Errorf("link to %s: got %v, want errUnsafePath", target, err)
		}
		must(os.Remove(stray))
	}
}
