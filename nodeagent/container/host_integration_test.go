//go:build integration

package container_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
)

// patience is how long a test waits for what should come.
const patience = 30 * time.Second

// host is a place of its own for the containers of one test.
type host struct {
	binary  string // of the OCI runtime
	runc    *container.Runc
	cgroups *container.Cgroups
	workDir string
	base    string // of the control groups
}

func rootFS(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SANFRAN_ROOTFS")
	if dir == "" {
		cache := os.Getenv("SANFRAN_CACHE")
		if cache == "" {
			user, err := os.UserCacheDir()
			if err != nil {
				t.Fatal(err)
			}
			cache = filepath.Join(user, "sanfran")
		}
		dir = filepath.Join(cache, "rootfs", "node24")
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/local/bin/node")); err != nil {
		t.Fatalf("the Node.js root filesystem: %v (make it with `go run ./deploy/images --rootfs-dir`, or name one in SANFRAN_ROOTFS)", err)
	}
	return dir
}

// ociRuntimes are the OCI runtimes that a user may choose from.
var ociRuntimes = []struct{ name, binary string }{
	{"runc", cmp.Or(os.Getenv("SANFRAN_RUNC"), "runc")},
	{"crun", cmp.Or(os.Getenv("SANFRAN_CRUN"), "crun")},
}

// eachRuntime runs a test with each of them.
func eachRuntime(t *testing.T, test func(t *testing.T, h *host)) {
	for _, oci := range ociRuntimes {
		t.Run(oci.name, func(t *testing.T) { test(t, newHostOf(t, oci.binary)) })
	}
}

// newHost is a host with runc.
func newHost(t testing.TB) *host {
	t.Helper()
	return newHostOf(t, ociRuntimes[0].binary)
}

func newHostOf(t testing.TB, binary string) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("integration tests of containers need root")
	}
	others := goleak.IgnoreCurrent() // a benchmark's parents wait for it
	dir, err := os.MkdirTemp("", "sanfran-container-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	h := &host{binary: binary, workDir: dir, base: "/" + filepath.Base(dir)}
	h.open(t)
	t.Cleanup(func() {
		if err := h.runc.Close(); err != nil {
			t.Error(err)
		}
		h.removeBase(t)
		goleak.VerifyNone(t, others)
	})
	return h
}

// open makes the runtime, as a start of the agent does.
func (h *host) open(t testing.TB) {
	t.Helper()
	var err error
	if h.cgroups, err = container.PrepareCgroups(container.CgroupOptions{Base: h.base}); err != nil {
		t.Fatal(err)
	}
	if h.runc, err = container.NewRunc(container.RuncOptions{
		Binary:   h.binary,
		WorkDir:  h.workDir,
		Cgroups:  h.cgroups,
		Defaults: container.Resources{MemoryBytes: 512 << 20},
	}); err != nil {
		t.Fatal(err)
	}
	if err := h.runc.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (h *host) removeBase(t testing.TB) {
	if h.base == "" { // nobody made one
		return
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		dirs, _ := filepath.Glob(pattern + h.base)
		for _, dir := range dirs {
			if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
				t.Errorf("remove %s: %v", dir, err)
			}
		}
	}
}

// left is everything of containers that can be seen on the host.
func (h *host) left() []string {
	var left []string
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, h.workDir+"/run/") && !strings.Contains(line, h.workDir+"/run/bin/") {
			left = append(left, "mount "+line)
		}
	}
	for _, dir := range []string{"state", "slots"} {
		entries, _ := os.ReadDir(filepath.Join(h.workDir, "run", dir))
		for _, e := range entries {
			left = append(left, "folder "+dir+"/"+e.Name())
		}
	}
	ids, _ := h.cgroups.List()
	for _, id := range ids {
		left = append(left, "cgroup "+id)
	}
	return append(left, childProcesses()...)
}

// childProcesses lists them. crun's helper may be about to end when its container
// is gone already, and is collected with the next start then, or here.
func childProcesses() []string {
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		container.CollectOrphans()
		var left []string
		helpers := 0
		tasks, _ := filepath.Glob("/proc/self/task/*/children")
		for _, task := range tasks {
			children, _ := os.ReadFile(task)
			for pid := range strings.FieldsSeq(string(children)) {
				comm, _ := os.ReadFile("/proc/" + pid + "/comm")
				left = append(left, "child process "+pid+" "+strings.TrimSpace(string(comm)))
				if string(comm) == "crun\n" {
					helpers++
				}
			}
		}
		if helpers < len(left) || helpers == 0 || time.Now().After(end) {
			return left
		}
	}
}

func node(script string) []string { return []string{"/usr/local/bin/node", "-e", script} }

// server is a container whose program evaluates the JavaScript it is sent.
type server struct {
	container.Container
	t      testing.TB
	url    string
	stderr *bytes.Buffer
	// started is when Start returned.
	started time.Time
}

const evaluator = `
require("http").createServer(async (req, res) => {
  let code = ""; for await (const chunk of req) code += chunk
  let answer
  try { answer = {value: await eval("(async () => {" + code + "})()")} }
  catch (e) { answer = {error: e.code || String(e)} }
  res.end(JSON.stringify(answer))
}).listen({fd: 3}, () => new (require("net").Socket)({fd: 4}).write("warm\n"))`

func (h *host) serve(t testing.TB, id string, change func(*container.Config)) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	listener, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, mine := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control peer")
	defer mine.Close()
	errOut, errIn, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer errOut.Close()
	cfg := container.Config{
		ID: id, RootFS: rootFS(t), Listener: listener, Control: theirs, Stderr: errIn,
		Args: node(evaluator), Env: []string{"HOME=/tmp"}, Hostname: "warm-" + id,
	}
	if change != nil {
		change(&cfg)
	}
	c, err := h.runc.Start(t.Context(), cfg)
	started := time.Now()
	theirs.Close()
	errIn.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Destroy(context.WithoutCancel(t.Context())) })
	s := &server{Container: c, t: t, url: "http://" + ln.Addr().String(), stderr: new(bytes.Buffer), started: started}
	if line, err := bufio.NewReader(mine).ReadString('\n'); line != "warm\n" {
		_, _ = io.Copy(s.stderr, errOut)
		t.Fatalf("the container did not become warm: %q, %v\n%s", line, err, s.stderr)
	}
	return s
}

// eval runs JavaScript in the container. If it throws, the answer is "error: "
// and the error's code.
func (s *server) eval(script string) string {
	s.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	res, err := client.Post(s.url, "text/javascript", strings.NewReader(script))
	if err != nil {
		s.t.Fatalf("eval %q: %v", script, err)
	}
	defer res.Body.Close()
	var answer struct {
		Value any
		Error string
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		s.t.Fatalf("eval %q: %v", script, err)
	}
	if answer.Error != "" {
		return "error: " + answer.Error
	}
	return fmt.Sprint(answer.Value)
}

func (s *server) expect(script, want string) {
	s.t.Helper()
	if got := s.eval(script); got != want {
		s.t.Errorf("%s\n  is %s, want %s", script, got, want)
	}
}
