package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/container/containertest"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	"sanfran.dev/router"
)

// fakeSocket is a listening socket on loopback.
type fakeSocket struct {
	file *os.File
	addr netip.AddrPort
}

func openFakeSocket(context.Context) (Socket, error) { return listenFake([4]byte{127, 0, 0, 1}, "") }

// openPodSocket opens one that is reached at every loopback address: as by pods'
// addresses beside its own.
func openPodSocket(context.Context) (Socket, error) { return listenFake([4]byte{}, "lo") }

// listenFake listens at an address, on all devices unless one is named.
func listenFake(at [4]byte, device string) (Socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return nil, err
	}
	if device != "" {
		if err := unix.BindToDevice(fd, device); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: at}), unix.Listen(fd, 100)); err != nil {
		return nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	s := &fakeSocket{file: os.NewFile(uintptr(fd), "socket"), addr: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(name.(*unix.SockaddrInet4).Port))}
	return s, unix.SetNonblock(fd, true)
}

func (s *fakeSocket) File() *os.File       { return s.file }
func (s *fakeSocket) Addr() netip.AddrPort { return s.addr }
func (s *fakeSocket) Close() error         { _ = s.file.Close(); return nil }
func (s *fakeSocket) Release() error       { return s.Close() }

// fakeAddresses remembers what was asked of it.
type fakeAddresses struct {
	mu       sync.Mutex
	log      []string
	assigned map[netip.Addr]bool
	refuse   error
}

func (f *fakeAddresses) did(what string, addr netip.Addr) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	entry := fmt.Sprintf("%s %v", what, addr)
	// Saying the same again is allowed and changes nothing.
	if len(f.log) == 0 || f.log[len(f.log)-1] != entry {
		f.log = append(f.log, entry)
	}
	switch what {
	case "assign":
		f.assigned[addr] = true
	case "remove":
		delete(f.assigned, addr)
	}
	return f.refuse
}

func (f *fakeAddresses) Assign(addr netip.Addr) error                 { return f.did("assign", addr) }
func (f *fakeAddresses) Direct(addr netip.Addr, _ syscall.Conn) error { return f.did("direct", addr) }
func (f *fakeAddresses) Park(addr netip.Addr) error                   { return f.did("park", addr) }
func (f *fakeAddresses) Remove(addr netip.Addr) error                 { return f.did("remove", addr) }

func (f *fakeAddresses) Assigned() ([]netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []netip.Addr
	for addr := range f.assigned {
		all = append(all, addr)
	}
	return all, nil
}

func (f *fakeAddresses) did1(entry string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Contains(f.log, entry)
}

// testAgent is an agent whose node is made of fakes: containers are goroutines,
// sockets are on loopback. Everything above is real.
type testAgent struct {
	*Agent
	t *testing.T
	// offline agents start without a control plane.
	offline bool
	// left is the node's memory; nil: unlimited.
	left    func(need int64) (int64, error)
	cp      *fakeControlPlane
	workers *fakeWorkers
	runtime *containertest.Fake
	owner   *fakeAddresses
	// sockets opens the containers' sockets.
	sockets func(context.Context) (Socket, error)
	// inspector is the address of the containers' inspector.
	inspector string
	data, pod string // URLs
	stop      func()

	mu     sync.Mutex
	opened map[string]bool // the agent's ends of connections to warm containers
}

// connect is the agent's own, and remembers the connection.
func (ta *testAgent) connect(ctx context.Context, address string) (net.Conn, error) {
	conn, err := ta.forwarder.Connect(ctx, address)
	if err == nil {
		ta.mu.Lock()
		defer ta.mu.Unlock()
		ta.opened[conn.LocalAddr().String()] = true
	}
	return conn, err
}

func startTestAgent(t *testing.T, adapt func(*testAgent, *Config)) *testAgent {
	t.Helper()
	ta := &testAgent{t: t, cp: newFakeControlPlane(t), workers: newFakeWorkers(), owner: &fakeAddresses{assigned: map[netip.Addr]bool{}}, sockets: openFakeSocket, opened: map[string]bool{}}
	ta.runtime = &containertest.Fake{Run: ta.workers.run}
	cfg := Config{
		NodeName: "node-a", NodeIP: netip.MustParseAddr("127.0.0.1"), Runtimes: map[string]string{"node24": t.TempDir()},
		WorkDir: t.TempDir(), PoolTarget: 2, StopGrace: 5 * time.Second, DrainGrace: 5 * time.Second, RouteSettle: 10 * time.Millisecond, EndpointSettle: 10 * time.Millisecond,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if adapt != nil {
		adapt(ta, &cfg)
	}
	if ta.offline {
		ta.cp.server.Stop()
		cfg.HandoverGrace = 10 * time.Millisecond // nobody hears of it
	}
	a, err := New(cfg, ta.cp.conn)
	if err != nil {
		t.Fatal(err)
	}
	ta.Agent = a
	if ta.left != nil {
		a.room = newRoom(ta.left, a.makeRoom)
	}
	a.mountEmptyDirs = func(dir string, sizes map[string]int64) error { // mounts would need root
		for name := range sizes {
			if err := os.Mkdir(emptyDirFilesystem(dir, name), 0o755); err != nil {
				return err
			}
		}
		return nil
	}
	a.addresses = newAddressBook(ta.owner, a.log)
	stock, err := openPool(a, &starter{
		keep: a.keep, connect: ta.connect,
		runtime: ta.runtime, sockets: ta.sockets, rootFS: a.cfg.Runtimes, args: a.cfg.WorkerArgs, bootTimeout: a.cfg.BootTimeout, log: a.log,
		namespace: func(context.Context, string) (string, func() error, error) {
			return "", func() error { return nil }, nil
		},
		inspector: func(ctx context.Context, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp4", ta.inspector)
		},
	}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.warmers = stock
	edge := newControlPlane(a, ta.cp.conn)
	bundles, err := openBundles(a, edge)
	if err != nil {
		t.Fatal(err)
	}
	a.bundles = bundles
	data, pod := listenLocal(t), listenLocal(t)
	ta.data, ta.pod = "http://"+data.Addr().String(), "http://"+pod.Addr().String()
	a.cfg.DataPort = uint16(data.Addr().(*net.TCPAddr).Port)

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.serve(ctx, edge, data, pod) }()
	ta.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent ended with: %v", err)
		}
		a.cancel()
		bundles.Close()
		if err := stock.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if live := ta.runtime.Live(); len(live) > 0 {
			t.Errorf("%d containers are left", len(live))
		}
		client.CloseIdleConnections()
	})
	t.Cleanup(ta.stop)
	if ta.offline {
		return ta
	}
	ta.cp.wait("the agent's hello", func() bool { return len(ta.cp.hellos) == 1 })
	return ta
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// assigned makes a pod of this agent and waits until it is ready.
func (ta *testAgent) assigned(a *agentv1.Assignment, state agentv1.PodState) *agentv1.PodStatus {
	ta.t.Helper()
	ta.cp.assign(a)
	return ta.cp.waitState(a, state)
}

// client makes a new connection for each request.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

type answer struct {
	code   int
	body   string
	header http.Header
	err    error
}

func get(ctx context.Context, url string, header ...string) answer {
	return getWith(ctx, client, url, header...)
}

func getWith(ctx context.Context, client *http.Client, url string, header ...string) answer {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{err: err}
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return answer{res.StatusCode, string(body), res.Header, err}
}

// viaData calls a pod as a gateway does.
func (ta *testAgent) viaData(ctx context.Context, pod *agentv1.Assignment, path string) answer {
	return get(ctx, ta.data+path, router.HeaderPod, pod.GetPodUid(), router.HeaderRevision, pod.GetRevision())
}

type addrOf string

func (a addrOf) parse() netip.Addr { return netip.MustParseAddr(string(a)) }
