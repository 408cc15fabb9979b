package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

const (
	certDir    = "usr/share/ca-certificates/"
	certBundle = "etc/ssl/certs/ca-certificates.crt"
)

// applets are the commands of busybox that the root filesystem offers: what
// shell one-liners of npm modules and a look around with `kubectl exec` need.
// Nothing that configures a machine.
const applets = `[ ash awk base64 basename cat chmod cmp cp cut date dd df diff dirname du echo egrep env expr
false fgrep find fold free getopt grep groups gunzip gzip head hexdump hostname id kill killall less ln ls
md5sum mkdir mkfifo mktemp more mv nc nl nproc nslookup od paste pidof ping printf ps pwd
readlink realpath rm rmdir sed seq sh sha1sum sha256sum sha512sum sleep sort stat strings stty sync tac
tail tar tee test time timeout top touch tr true tty uname uniq unlink unzip uptime vi wc wget which whoami
xargs xxd yes zcat`

// etcFiles are the files a C library and a shell expect. The placeholders are
// there to be bound over.
func etcFiles(rt nodeRuntime) map[string]string {
	return map[string]string{
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
		"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
		"etc/hosts":         "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
		"etc/hostname":      "",
		"etc/resolv.conf":   "",
		"etc/os-release": fmt.Sprintf("PRETTY_NAME=\"SanFran %s on Debian %s libraries\"\nNAME=\"Debian GNU/Linux\"\nID=debian\nVERSION_ID=\"%s\"\n",
			rt.Name, rt.Release, strings.Fields(rt.Release)[0]),
	}
}

// mountPoints are the empty folders that a container's mounts go to.
var mountPoints = []string{"dev", "function", "home", "opt", "proc", "root", "run", "sys", "var"}

// nodeRootfs builds the root filesystem of rt, without the worker.
func (b *builder) nodeRootfs(ctx context.Context, rt nodeRuntime, l lock) (*tree, error) {
	t := newTree()
	for i, p := range rt.Debian {
		deb, err := b.deb(ctx, l.Debian[i])
		if err != nil {
			return nil, err
		}
		if err := b.addDeb(ctx, t, p, deb); err != nil {
			return nil, err
		}
	}
	tarball, err := b.npmTarball(ctx, l.Npm)
	if err != nil {
		return nil, err
	}
	err = t.addNpmTarball(tarball, func(name string) string {
		switch name {
		case "bin/node":
			return "usr/local/bin/node" // where the usual Node.js images have it
		case "LICENSE":
			return "usr/share/doc/nodejs/LICENSE"
		}
		return "" // headers, manual, changelog
	})
	if err != nil {
		return nil, fmt.Errorf("npm package %s@%s: %w", l.Npm.Name, l.Npm.Version, err)
	}
	if _, ok := t.entries["usr/local/bin/node"]; !ok {
		return nil, fmt.Errorf("npm package %s@%s has no bin/node", l.Npm.Name, l.Npm.Version)
	}
	return t, t.addSystemFiles(rt)
}

// addSystemFiles adds what is of our own making: links, /etc, mount points,
// and the certificates joined into one file.
func (t *tree) addSystemFiles(rt nodeRuntime) error {
	if err := t.bundleCertificates(); err != nil {
		return err
	}
	links := map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
		"usr/bin/node": "../local/bin/node", "etc/mtab": "/proc/self/mounts",
		"etc/ssl/cert.pem": "certs/ca-certificates.crt",
	}
	for _, applet := range strings.Fields(applets) {
		links["usr/bin/"+applet] = "busybox"
	}
	for name, target := range links {
		if err := t.addSymlink(name, target); err != nil {
			return err
		}
	}
	for name, content := range etcFiles(rt) {
		if err := t.addFile(name, []byte(content), false); err != nil {
			return err
		}
	}
	for _, name := range append(mountPoints, "usr/sbin") {
		if err := t.addDir(name, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"tmp", "var/tmp"} {
		if err := t.addDir(name, stickyTmp); err != nil {
			return err
		}
	}
	return nil
}

// bundleCertificates replaces the single certificates of Debian's package by
// the one file that OpenSSL, Go and others read.
func (t *tree) bundleCertificates() error {
	var bundle []byte
	for _, name := range t.names() {
		if !strings.HasPrefix(name+"/", certDir) {
			continue
		}
		if path.Ext(name) == ".crt" {
			bundle = append(append(bundle, strings.TrimSpace(string(t.entries[name].content))...), '\n')
		}
		delete(t.entries, name)
	}
	if len(bundle) == 0 {
		return fmt.Errorf("no certificates below %s", certDir)
	}
	return t.addFile(certBundle, bundle, false)
}

// sources are this program's own: what it builds depends on them too.
//
//go:embed *.go
var sources embed.FS

// rootfsKey names everything that nodeRootfs depends on: the description, the
// lock, and how it is put together.
func rootfsKey(rt nodeRuntime, l lock) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(struct {
		Runtime nodeRuntime
		Lock    lock
	}{rt, l}); err != nil {
		return "", err
	}
	files, err := sources.ReadDir(".")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		data, err := sources.ReadFile(f.Name())
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n", f.Name(), len(data))
		h.Write(data)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// updateLock pins what the registry and the mirror have now. The Node.js
// version is the table's; Debian's are the newest.
func (b *builder) updateLock(ctx context.Context, rt nodeRuntime) (lock, error) {
	var l lock
	if rt.NpmPackage != "" {
		integrity, err := b.npmRegistryIntegrity(ctx, rt.NpmPackage, rt.NpmVersion)
		if err != nil {
			return lock{}, err
		}
		l.Npm = npmPin{Name: rt.NpmPackage, Version: rt.NpmVersion, Integrity: integrity}
		if _, err := b.npmTarball(ctx, l.Npm); err != nil {
			return lock{}, err
		}
	}
	for _, p := range rt.Debian {
		deb, err := b.aptDownload(ctx, p.Name)
		if err != nil {
			return lock{}, err
		}
		pin := debianPin{Name: p.Name, SHA256: sha256Hex(deb)}
		if pin.Version, err = b.debField(ctx, deb, "Version"); err != nil {
			return lock{}, err
		}
		if pin.Architecture, err = b.debField(ctx, deb, "Architecture"); err != nil {
			return lock{}, err
		}
		if err := writeFileAtomic(b.debFile(pin), deb); err != nil {
			return lock{}, err
		}
		l.Debian = append(l.Debian, pin)
	}
	return l, nil
}
