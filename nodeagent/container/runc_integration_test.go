//go:build integration

package container_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/container/containertest"
)

// patience is how long a test waits for what should come.
const patience = 30 * time.Second

// host is a place of its own for the containers of one test.
type host struct {
	runc    *container.Runc
	cgroups *container.Cgroups
	workDir string
	base    string // of the control groups
}

func rootFS(t *testing.T) string {
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

func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("integration tests of containers need root")
	}
	dir, err := os.MkdirTemp("", "sanfran-container-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	h := &host{workDir: dir, base: "/" + filepath.Base(dir)}
	h.open(t)
	t.Cleanup(func() {
		if err := h.runc.Close(); err != nil {
			t.Error(err)
		}
		h.removeBase(t)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t)
	})
	return h
}

// open makes the runtime, as a start of the agent does.
func (h *host) open(t *testing.T) {
	t.Helper()
	var err error
	if h.cgroups, err = container.PrepareCgroups(container.CgroupOptions{Base: h.base}); err != nil {
		t.Fatal(err)
	}
	if h.runc, err = container.NewRunc(container.RuncOptions{
		Binary:   os.Getenv("SANFRAN_RUNC"),
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

func (h *host) removeBase(t *testing.T) {
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
		if strings.Contains(line, h.workDir+"/run/") {
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
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for pid := range strings.FieldsSeq(string(children)) {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			left = append(left, "child process "+pid+" "+string(comm))
		}
	}
	return left
}

func node(script string) []string { return []string{"/usr/local/bin/node", "-e", script} }

func TestRuncKeepsTheContract(t *testing.T) {
	root := rootFS(t)
	containertest.Suite(t, func(t *testing.T) containertest.Subject {
		h := newHost(t)
		return containertest.Subject{
			Runtime: h.runc,
			RootFS:  root,
			Left:    h.left,
			Args: func(program string) []string {
				return node(map[string]string{
					containertest.Idle:       `setInterval(() => {}, 1e9)`,
					containertest.Exit3:      `process.exit(3)`,
					containertest.Exit0OnEOF: `new (require("net").Socket)({fd: 4}).on("end", () => process.exit(0)).resume()`,
				}[program])
			},
		}
	})
}

// server is a container whose program evaluates the JavaScript it is sent.
type server struct {
	container.Container
	t      *testing.T
	url    string
	stderr *bytes.Buffer
}

const evaluator = `
require("http").createServer(async (req, res) => {
  let code = ""; for await (const chunk of req) code += chunk
  let answer
  try { answer = {value: await eval("(async () => {" + code + "})()")} }
  catch (e) { answer = {error: e.code || String(e)} }
  res.end(JSON.stringify(answer))
}).listen({fd: 3}, () => new (require("net").Socket)({fd: 4}).write("warm\n"))`

func (h *host) serve(t *testing.T, id string, change func(*container.Config)) *server {
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
	theirs.Close()
	errIn.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Destroy(context.WithoutCancel(t.Context())) })
	s := &server{Container: c, t: t, url: "http://" + ln.Addr().String(), stderr: new(bytes.Buffer)}
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

func TestContainerIsSealed(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "sealed", nil)

	for _, c := range []struct{ script, want string }{
		{`return process.getuid()`, "65534"},
		{`return process.getgid()`, "65534"},
		{`return process.pid`, "1"},
		{`return require("os").hostname()`, "warm-sealed"},
		{`require("fs").writeFileSync("/x", "")`, "error: EROFS"},
		{`require("fs").writeFileSync("/usr/local/bin/node", "")`, "error: EROFS"},
		{`require("fs").mkdirSync("/other")`, "error: EROFS"},
		{`require("fs").writeFileSync("/tmp/x", "ok"); return require("fs").readFileSync("/tmp/x", "utf8")`, "ok"},
		{`require("fs").writeFileSync("/dev/shm/x", "")`, "<nil>"},
		{`require("fs").writeFileSync("/dev/x", "")`, "error: EACCES"},
		{`require("fs").writeFileSync("/dev/null", "x")`, "<nil>"},
		{`return require("fs").readFileSync("/proc/timer_list").length`, "0"},
		{`require("fs").writeFileSync("/proc/sys/kernel/hostname", "x")`, "error: EROFS"},
		{`return Object.keys(require("os").networkInterfaces())`, "[lo]"},
		{`require("fs").readdirSync("/sys/fs")`, "error: ENOENT"},
		{`return require("fs").readdirSync("/proc").filter(n => n > 0).length`, "1"},
	} {
		s.expect(c.script, c.want)
	}

	status := s.eval(`return require("fs").readFileSync("/proc/self/status", "utf8")`)
	for _, line := range []string{
		"CapInh:\t0000000000000000", "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
		"CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2",
	} {
		if !strings.Contains(status, line+"\n") {
			t.Errorf("/proc/self/status lacks %q:\n%s", line, status)
		}
	}
	for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts", "cgroup"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.eval(`return require("fs").readlinkSync("/proc/self/ns/` + ns + `")`); got == host || !strings.HasPrefix(got, ns+":[") {
			t.Errorf("%s namespace is %s, the host's is %s", ns, got, host)
		}
	}
	if uidMap := strings.Fields(s.eval(`return require("fs").readFileSync("/proc/self/uid_map", "utf8")`)); len(uidMap) != 3 || uidMap[0] != "0" || uidMap[1] == "0" || uidMap[2] != "65536" {
		t.Errorf("uid_map = %q", uidMap)
	}
	// A whole /tmp takes no more than its limit.
	s.expect(`
		const fs = require("fs"), f = fs.openSync("/tmp/fill", "w"), block = Buffer.alloc(1 << 20)
		try { for (let i = 0; i < 300; i++) fs.writeSync(f, block) }
		catch (e) { fs.closeSync(f); fs.unlinkSync("/tmp/fill"); throw e }`, "error: ENOSPC")
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

func TestMountAppearsInARunningContainer(t *testing.T) {
	h := newHost(t)
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

// A tenant with a writable volume plants links in it; a mount point on such a
// path must stay inside, whatever they say.
func TestMountPointsNeverLeaveTheContainer(t *testing.T) {
	h := newHost(t)
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

func TestNetworkNamespaceByPath(t *testing.T) {
	h := newHost(t)
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
			lockForever()
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

func TestLimitsHoldInARunningContainer(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "limits", nil)
	began := time.Now()
	if err := s.SetResources(t.Context(), container.Resources{MilliCPU: 250, MemoryBytes: 96 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Logf("SetResources took %v", time.Since(began))
	// 400 ms of work at a quarter of a processor take 1.6 s, give or take the
	// 100 ms of a period at either end.
	used := s.eval(`
		const began = process.hrtime.bigint(), cpu = process.cpuUsage()
		while (Number(process.hrtime.bigint() - began) < 2e9);
		const {user, system} = process.cpuUsage(cpu)
		return user + system`)
	if us, err := strconv.ParseFloat(used, 64); err != nil || us > 0.25*2e6+150e3 {
		t.Errorf("used %s µs of processor time in 2 s at 250m", used)
	}
	res, err := http.Post(s.url, "text/javascript", strings.NewReader(`const all = []; for (;;) all.push(Buffer.alloc(8 << 20, 1))`))
	if err == nil {
		res.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Fatal("a container far above its memory limit lives on")
	}
	if st := s.ExitStatus(); !st.OOMKilled {
		t.Errorf("ExitStatus = %+v, want OOMKilled", st)
	}
}

func TestPidsLimit(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "pids", nil)
	s.expect(`
		const {spawn} = require("child_process")
		for (let i = 0; i < 2000; i++) {
			const child = spawn("/usr/bin/busybox", ["sleep", "1000000"])
			const error = await new Promise(done => { child.on("error", e => done(e.code)); child.on("spawn", () => done()) })
			if (error) return error
		}
		return "no limit"`, "EAGAIN")
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
}

func TestKilledFromOutside(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "victim", nil)
	resp, err := http.Post(s.url, "", strings.NewReader(`process.kill(1, "SIGKILL"); process.abort()`))
	if err == nil {
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Fatal("the container lives on")
	}
	if st := s.ExitStatus(); st.OOMKilled || st.Code == 0 {
		t.Errorf("ExitStatus = %+v", st)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// The agent dies with containers alive, and a container's folders, state and
// control group each survive alone. The next life removes all.
func TestSweepRemovesAnEarlierLife(t *testing.T) {
	h := newHost(t)
	s := h.serve(t, "orphan", nil)
	slots, state := filepath.Join(h.workDir, "run/slots"), filepath.Join(h.workDir, "run/state")
	for _, dir := range []string{filepath.Join(slots, "half-made", "rootfs"), filepath.Join(state, "stale")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, "index.js"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Mount(t.Context(), container.Mount{Source: bundle, Target: "/function"}); err != nil {
		t.Fatal(err)
	}
	if _, err := container.NewRunc(container.RuncOptions{Binary: os.Getenv("SANFRAN_RUNC"), WorkDir: h.workDir, Cgroups: h.cgroups}); err == nil {
		t.Fatal("two runtimes share a work directory")
	}
	h.runc.DropLock(t)
	h.open(t)
	select {
	case <-s.Exited():
	case <-time.After(patience):
		t.Error("the orphan lives on")
	}
	if left := h.left(); len(left) > 0 {
		t.Errorf("left on the host: %q", left)
	}
	if _, err := os.Stat(filepath.Join(bundle, "index.js")); err != nil {
		t.Errorf("the sweep has deleted what was mounted: %v", err)
	}
}

// One container after another from nothing to a program that has booted, and
// back to nothing. The times are reported, not judged: machines differ.
func TestTimes(t *testing.T) {
	h := newHost(t)
	var warms, destroys []time.Duration
	for i := range 10 {
		began := time.Now()
		s := h.serve(t, fmt.Sprint("time", i), nil)
		warms = append(warms, time.Since(began))
		began = time.Now()
		if err := s.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
		destroys = append(destroys, time.Since(began))
	}
	for _, d := range [][]time.Duration{warms, destroys} {
		slices.Sort(d)
	}
	t.Logf("medians: start to warm %v, destroy %v", warms[5], destroys[5])
}
