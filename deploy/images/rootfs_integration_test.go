//go:build integration

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRealRootfs fetches the pinned packages (from the user's cache if they
// are there) and runs programs of each root filesystem in it. It needs root
// for chroot, and a registry and mirror unless the cache is filled.
func TestRealRootfs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("chroot needs root: run as root")
	}
	cache, err := cacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{cache: filepath.Join(cache, "images"), progress: t.Output()}
	defer b.close()
	for _, rt := range runtimes {
		t.Run(rt.Name, func(t *testing.T) {
			l, err := readLock(lockFiles, rt)
			if err != nil {
				t.Fatal(err)
			}
			root, err := b.unpackRootfs(t.Context(), t.TempDir(), rt, l, newTree())
			if err != nil {
				t.Fatal(err)
			}
			in := func(args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), "chroot", append([]string{root}, args...)...)
				cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin"}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %v: %s", args, err, out)
				}
				return strings.TrimSpace(string(out))
			}
			if got := in("node", "--version"); got != "v"+rt.NpmVersion {
				t.Errorf("node is %s, want v%s", got, rt.NpmVersion)
			}
			if got := in("node", "-p", `child_process.execSync("echo $((6*7)) | sed s/^/x/").toString()`); got != "x42" {
				t.Errorf("a shell command of a function gives %q", got)
			}
			if got := in("node", "-p", `process.env.TZ="Asia/Tokyo"; new Date(0).toString()`); !strings.Contains(got, "09:00:00 GMT+0900") {
				t.Errorf("time zones: %s", got)
			}
			if got := in("date", "-d", "@0", "+%H"); got != "00" {
				t.Errorf("the zone without TZ is not UTC: hour %s", got)
			}
			if got := in("node", "--use-openssl-ca", "-p", `tls.rootCertificates.length > 50 && fs.readFileSync("/etc/ssl/cert.pem","utf8").split("BEGIN CERT").length > 50`); got != "true" {
				t.Errorf("certificates: %s", got)
			}
			if got := in("node", "-e", `dns.lookup("localhost", {family: 4}, (e, a) => console.log(os.userInfo().username, e ?? a))`); got != "root 127.0.0.1" {
				t.Errorf("users and hosts: %s", got)
			}
			has := " " + strings.Join(strings.Fields(in("busybox", "--list")), " ") + " "
			for _, applet := range strings.Fields(applets) {
				if !strings.Contains(has, " "+applet+" ") {
					t.Errorf("busybox has no %s", applet)
				}
			}
			checkLibraries(t, root)
		})
	}
}

// TestRealCrun runs the image's crun with nothing but what comes with it.
func TestRealCrun(t *testing.T) {
	cache, err := cacheDir(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{cache: filepath.Join(cache, "images"), progress: t.Output()}
	defer b.close()
	l, err := readLock(lockFiles, crun)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := b.crunTree(t.Context(), crun, l)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := tree.unpack(root); err != nil {
		t.Fatal(err)
	}
	const inside = `mkdir "$0/proc" && mount -t proc proc "$0/proc" && exec chroot "$0" /usr/bin/crun --version`
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", inside, root).CombinedOutput()
	if version, _, _ := strings.Cut(l.Debian[0].Version, "-"); err != nil || !strings.HasPrefix(string(out), "crun version "+version+"\n") {
		t.Errorf("crun --version: %v\n%s", err, out)
	}
}

// checkLibraries makes sure that every library of the root filesystem finds
// what it needs in it, and that no link leads nowhere.
func checkLibraries(t *testing.T, root string) {
	t.Helper()
	libs, err := filepath.Glob(filepath.Join(root, libDir, "*.so*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(libs) == 0 {
		t.Fatal("no libraries")
	}
	for _, lib := range append(libs, filepath.Join(root, "usr/local/bin/node")) {
		inside := strings.TrimPrefix(lib, root)
		if _, err := os.Stat(lib); err != nil {
			t.Errorf("%s leads nowhere: %v", inside, err)
			continue
		}
		out, err := exec.CommandContext(t.Context(), "chroot", root, "/lib64/ld-linux-x86-64.so.2", "--list", inside).CombinedOutput()
		if strings.Contains(string(out), "not found") || err != nil && !strings.Contains(string(out), "statically linked") {
			t.Errorf("%s: %v: %s", inside, err, out)
		}
	}
}
