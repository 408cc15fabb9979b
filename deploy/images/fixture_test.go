package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// tiny is a runtime small enough for tests; its packages are made here.
var tiny = nodeRuntime{
	Name: "tiny", NpmPackage: "tiny-node", NpmVersion: "1.0.0", Release: "12 (test)",
	Debian: []debianPackage{{Name: "ca-certificates", Keep: []string{certDir}}},
}

// tinyCrun stands for crun and its libraries.
var tinyCrun = nodeRuntime{Name: "tiny-crun", Release: tiny.Release, Debian: tiny.Debian}

// newBuilder returns a builder with an empty cache.
func newBuilder(t *testing.T) *builder {
	t.Helper()
	b := &builder{cache: t.TempDir(), repo: t.TempDir(), progress: t.Output()}
	t.Cleanup(b.close)
	return b
}

// withTiny puts tiny's packages into b's cache, as if they had been fetched,
// and returns the lock that pins them.
func withTiny(t *testing.T, b *builder) lock {
	t.Helper()
	npm := tarGz(t, map[string]string{"package/bin/node": "node", "package/LICENSE": "MIT", "package/include/node.h": "no"})
	deb := debOf(t, map[string]string{
		"./usr/share/ca-certificates/mozilla/B.crt": "B\n", "./usr/share/ca-certificates/mozilla/A.crt": "A",
		"./usr/share/doc/ca-certificates/copyright": "MPL", "./usr/sbin/update-ca-certificates": "no",
	})
	l := lock{
		Npm:    npmPin{Name: tiny.NpmPackage, Version: tiny.NpmVersion, Integrity: npmIntegrity(npm)},
		Debian: []debianPin{{Name: "ca-certificates", Version: "1", Architecture: "all", SHA256: sha256Hex(deb)}},
	}
	write(t, filepath.Join(b.downloads(), "tiny-node-1.0.0.tgz"), string(npm))
	write(t, b.debFile(l.Debian[0]), string(deb))
	return l
}

// workerIn makes a worker without dependencies in dir.
func workerIn(t *testing.T, dir, main string) {
	t.Helper()
	write(t, filepath.Join(dir, "worker.js"), main)
	write(t, filepath.Join(dir, "worker.test.js"), "never shipped")
	write(t, filepath.Join(dir, "test", "x.js"), "never shipped")
	write(t, filepath.Join(dir, "node_modules", "dev.js"), "never shipped")
	write(t, filepath.Join(dir, "package.json"), `{"name":"w"}`)
	write(t, filepath.Join(dir, "package-lock.json"), `{"lockfileVersion":3}`)
}

// onPath makes script the only program that is found, under name, besides the
// machine's dpkg-deb and what a shell script needs.
func onPath(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, name)
	write(t, file, "#!/bin/sh\n"+script)
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func tarGz(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var buf bytes.Buffer
	zw := gzip.NewWriter(&buf)
	tw := tar.NewWriter(zw)
	for name, content := range files {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(content)), ModTime: time.Now()}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// debOf makes a Debian package: an ar archive of three members.
func debOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	control := tarGz(t, map[string]string{"./control": "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"})
	deb := []byte("!<arch>\n")
	for _, member := range []struct {
		name    string
		content []byte
	}{{"debian-binary", []byte("2.0\n")}, {"control.tar.gz", control}, {"data.tar.gz", tarGz(t, files)}} {
		deb = fmt.Appendf(deb, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", member.name, 0, 0, 0, "100644", len(member.content))
		deb = append(deb, member.content...)
		if len(deb)%2 == 1 {
			deb = append(deb, '\n')
		}
	}
	return deb
}
