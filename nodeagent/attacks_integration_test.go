//go:build integration

package nodeagent

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
	"sanfran.dev/test/attacks"
)

// attackRounds, if it is a number, has each flood run so often beside a
// neighbour whose p99 is compared with what it is without; a machine with
// something else to do fails then, so it is for make test-long.
const attackRounds = "SANFRAN_ATTACK_ROUNDS"

// attackOnly, if set, is what the names of the attacks made hold, such as floods/.
const attackOnly = "SANFRAN_ATTACK_ONLY"

// TestAttacks makes every attack of test/attacks from inside functions of a real
// agent, on a node where there is something to be had: a service, a kubelet, a
// metadata server.
func TestAttacks(t *testing.T) {
	bundle, err := attacks.Bundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	facts := attackedNode(t)
	a := startAgent(t, func(c *Config) { c.PoolTarget, c.RouteSettle = 2, 10*time.Millisecond })
	site := &attackedSite{
		agent: a, t: t, digest: a.cp.store(archiveOf(t, bundle)), pods: map[string]*agentv1.Assignment{},
		client: &http.Client{Timeout: 2 * patience, Transport: &http.Transport{MaxIdleConnsPerHost: 100}},
	}
	t.Cleanup(site.client.CloseIdleConnections)
	facts.Logs = a.cfg.Logs.Dir
	suite := attacks.Suite{Installation: site, Facts: facts, Only: os.Getenv(attackOnly), Report: func(r attacks.Result) {
		if r.Skipped {
			t.Logf("%-40s %s", r.Attack.Name, r.How)
			return
		}
		t.Logf("%-40s %s", r.Attack.Name, strings.TrimSpace(r.How))
		if r.Attack.Name == "neighbours/logs" && !logged(t, facts.Logs, "the victim keeps ") {
			t.Errorf("%s proves nothing: the victim's secret is not in %s", r.Attack.Name, facts.Logs)
		}
	}}
	if rounds := os.Getenv(attackRounds); rounds != "" {
		if suite.Rounds, err = strconv.Atoi(rounds); err != nil {
			t.Fatalf("%s: %v", attackRounds, err)
		}
	}
	before := nullDescriptors(t)
	if err := suite.Run(t.Context()); err != nil {
		t.Error(err)
	}
	if after := nullDescriptors(t); after >= before+32 {
		t.Errorf("the agent keeps %d descriptors of /dev/null, %d before: it took what a function sent", after, before)
	}
	if err := a.Ready(t.Context()); err != nil {
		t.Errorf("the agent is not ready any more: %v", err)
	}
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, a.cfg)
	if left := daemonsLeft(t); len(left) > 0 {
		t.Errorf("processes of functions are left: %v", left)
	}
}

// Attacks that nothing refuses work: as root of a node, most do. A list that is
// refused everywhere for reasons of its own would prove nothing.
func TestAttacksWorkWhereNothingHolds(t *testing.T) {
	program, err := attacks.Native(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// Those that change the machine or need what this one may lack are left out.
	for _, name := range []string{
		"mount", "fsopen", "open_tree", "bind-mount", "unmount-tmp", "chroot", "unshare-user", "unshare-mount", "unshare-net", "unshare-cgroup",
		"clone-user", "clone3-user", "setns", "open_by_handle_at", "unshare-by-int80", "keyctl", "add_key", "fanotify", "personality", "dmesg",
		"bpf-map", "bpf-program", "perf_event_open", "userfaultfd", "io_uring", "sethostname", "mknod-mem", "mknod-disk",
		"setuid", "setgid", "setgroups", "capset", "setuid-file", "nice", "raw-socket", "packet-socket", "set-address", "nftables",
	} {
		cmd := exec.CommandContext(t.Context(), program, name)
		// /tmp is its own, as in a container: what it mounts and makes there goes.
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
		cmd = inOwnTmp(t, cmd)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "got ") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	// Where somebody else's process has a number: a sibling of whoever started it.
	for _, name := range []string{"ptrace", "process_vm_readv", "kill"} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c",
			`mount --make-rprivate / && mount -t proc proc /proc || exit; sleep 60 & sh -c '"$0" "$1"; exit $?' "$0" "$1"; said=$?; kill $!; exit $said`,
			program, name)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "got ") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
}

// inOwnTmp runs a command with a tmpfs of its own at /tmp.
func inOwnTmp(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	// The program is opened before its folder, which may be in /tmp, is hidden.
	file, err := os.Open(cmd.Path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	wrapped := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `mount --make-rprivate / && mount -t tmpfs tmp /tmp && exec /proc/self/fd/3 "$@"`}, cmd.Args...)...)
	wrapped.ExtraFiles = []*os.File{file}
	wrapped.SysProcAttr = cmd.SysProcAttr
	return wrapped
}

// attackedNode has somebody listen wherever a function must not come to.
func attackedNode(t *testing.T) attacks.Facts {
	t.Helper()
	const worldIP, metadata = "192.0.2.1", "169.254.169.254"
	if err := inWorld(func() error { return up("node", metadata+"/32") }); err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(metadata).To4(), Mask: net.CIDRMask(32, 32)}, Gw: net.ParseIP(worldIP)}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.RouteDel(route); err != nil {
			t.Error(err)
		}
	})
	for _, address := range []string{worldIP + ":8088", worldIP + ":10250", metadata + ":80"} {
		hears(t, inWorld, address)
	}
	here := func(do func() error) error { return do() }
	echoes(t, inWorld, worldIP+":8088")
	echoes(t, here, ":2222")
	// It does answer at the node's own address.
	conn, err := net.Dial("udp4", nodeIP+":2222")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("sanfran")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 16)); err != nil {
		t.Fatalf("the node's own datagram service: %v", err)
	}
	for _, address := range []string{":10250", ":2222"} {
		hears(t, here, address)
	}
	return attacks.Facts{
		NodeIP: nodeIP, Agent: nodeIP + ":7070", AgentPods: nodeIP + ":7071",
		Kubelet: nodeIP + ":10250", OtherKubelet: worldIP + ":10250", Metadata: metadata + ":80",
		NodeService: nodeIP + ":2222", Loopback: "127.0.0.1:2222", Bridge: "10.246.0.1:2222",
		Beyond: worldIP + ":8088", Unassigned: "10.245.200.1:2222", Datagrams: "10.245.200.1:2222",
	}
}

func inWorld(do func() error) error {
	return onOwnThread(func() error {
		file, err := os.Open(world)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return do()
	})
}

// hears accepts connections, of which nothing is wanted.
func hears(t *testing.T, in func(func() error) error, address string) {
	t.Helper()
	var listener net.Listener
	if err := in(func() (err error) {
		listener, err = net.Listen("tcp4", address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { listener.Close(); <-done })
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
}

// echoes answers datagrams with themselves, from the address to which they came.
func echoes(t *testing.T, in func(func() error) error, address string) {
	t.Helper()
	var conn *net.UDPConn
	if err := in(func() error {
		at, err := net.ResolveUDPAddr("udp4", address)
		if err != nil {
			return err
		}
		conn, err = net.ListenUDP("udp4", at)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1) }); err != nil || set != nil {
		t.Fatal(err, set)
	}
	go func() {
		defer close(done)
		buf, oob := make([]byte, 1500), make([]byte, 128)
		for {
			n, about, _, from, err := conn.ReadMsgUDP(buf, oob)
			if err != nil {
				return
			}
			// What is said of where it came to says where the answer comes from.
			if _, _, err := conn.WriteMsgUDP(buf[:n], oob[:about], from); err != nil {
				return
			}
		}
	}()
}

// logged says whether a file below the folder holds the text.
func logged(t *testing.T, folder, text string) bool {
	t.Helper()
	found := false
	if err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, []byte(text))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// attackedSite is the agent as attacks.Installation.
type attackedSite struct {
	agent  *realAgent
	t      *testing.T
	digest string
	client *http.Client
	pods   map[string]*agentv1.Assignment
	made   int
}

var _ attacks.Installation = (*attackedSite)(nil)

func (s *attackedSite) Deploy(_ context.Context, f attacks.Function) (string, error) {
	s.made++
	tenant, name := f.Tenant, f.Name
	pod := assignment(name, fmt.Sprintf("10.245.20.%d", s.made), s.digest)
	pod.Namespace = tenant
	pod.PodUid = fmt.Sprintf("uid-%s-%s-%d", tenant, name, s.made)
	if f.Secret != "" {
		own := s.agent.cp.bundle(map[string]string{"file": f.Secret + "-bundle"})
		pod.Mounts = append(pod.Mounts,
			&agentv1.Mount{Path: "/own", Source: &agentv1.Mount_Bundle{Bundle: own}},
			&agentv1.Mount{Path: "/etc/secret", Source: &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: map[string][]byte{"file": []byte(f.Secret + "-secret")}}}},
			&agentv1.Mount{Path: "/data", Source: &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: "data"}}})
	}
	if f.Idle {
		pod.IdleTimeout = durationpb.New(time.Second)
	}
	s.pods[tenant+"/"+name] = pod
	s.agent.cp.assign(pod)
	s.agent.npmState(s.t, pod, agentv1.PodState_POD_STATE_ACTIVE)
	return pod.GetAddress() + ":8080", nil
}

func (s *attackedSite) Remove(_ context.Context, tenant, name string) error {
	pod := s.pods[tenant+"/"+name]
	if pod == nil {
		return nil
	}
	delete(s.pods, tenant+"/"+name)
	s.agent.cp.withdraw(pod, 0)
	s.agent.cp.waitState(pod, agentv1.PodState_POD_STATE_GONE)
	return nil
}

func (s *attackedSite) Get(ctx context.Context, tenant, name, path string) (int, []byte, error) {
	pod := s.pods[tenant+"/"+name]
	got := getWith(ctx, s.client, "http://"+s.agent.cfg.dataAddress()+path, router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
	return got.code, []byte(got.body), got.err
}

// Outside asks from the node and from beyond it.
func (s *attackedSite) Outside(ctx context.Context, address string) string {
	for _, client := range []*http.Client{client, beyondClient} {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		got := getWith(ctx, client, "http://"+address+"/")
		cancel()
		if got.err == nil {
			return got.body
		}
	}
	return ""
}

func archiveOf(t *testing.T, files map[string][]byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, bytes.NewReader(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// nullDescriptors counts what control-descriptors sends.
func nullDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, entry := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + entry.Name()); err == nil && to == "/dev/null" {
			n++
		}
	}
	return n
}

// daemonsLeft are processes on the machine that leftovers/daemon started.
func daemonsLeft(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, name := range names {
		if comm, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(comm)) == "sanfran-daemon" {
			left = append(left, filepath.Dir(name))
		}
	}
	return left
}
