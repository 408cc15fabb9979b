package warmpool

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sanfran.dev/internal/identity"
	"sanfran.dev/internal/rpc"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

// running is a pool behind a real listener with mutual TLS.
type running struct {
	pool      *Pool
	authority *identity.Authority
	address   string
	changed   chan string
}

func run(t *testing.T) *running {
	t.Helper()
	certPEM, keyPEM, err := identity.CreateCA()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := identity.NewAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	pool, err := Open(Config{DataDir: t.TempDir(), Generation: 1, MaxBundleBytes: 8 << 20, Sizing: PoolSizing{Floor: 3, Unused: 1, Max: 10, DefaultRuntime: "node24", Refill: time.Second}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{pool: pool, authority: authority, changed: make(chan string, 100)}
	pool.Subscribe(func(uid string) { r.changed <- uid })
	ctx, cancel := context.WithCancel(context.Background())
	server := rpc.NewServer(authority.ServerTLS("control-plane"), rpc.Policy{
		"sanfran.agent.v1.AgentService":    rpc.Roles(identity.RoleAgent),
		"sanfran.streams.v1.StreamService": rpc.Roles(identity.RoleAgent),
		"sanfran.routes.v1.RouteService":   rpc.Roles(identity.RoleAgent, identity.RoleGateway),
	}, log)
	pool.Server(ctx).Register(server)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.address = listener.Addr().String()
	done := make(chan error, 2)
	go func() { done <- rpc.Serve(ctx, server, listener, 10*time.Second) }()
	go func() { done <- pool.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		begin := time.Now()
		for range 2 {
			if err := <-done; err != nil {
				t.Errorf("stop: %v", err)
			}
		}
		if took := time.Since(begin); took > 9*time.Second {
			t.Errorf("streams held up the stop for %v", took)
		}
		if err := pool.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

// settle lets the time pass in which, after the start, no pod is given away.
func (r *running) settle() {
	b := r.pool.books
	b.mu.Lock()
	b.started = b.started.Add(-settleWithin)
	b.mu.Unlock()
	b.Tick(time.Now())
}

// dial returns a connection of a pod of role on node.
func (r *running) dial(t *testing.T, role identity.Role, node string) *grpc.ClientConn {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	chain, _, err := r.authority.IssueClient(request, identity.Peer{Role: role, Node: node, PodNamespace: "sanfran", PodName: "p", PodUID: "u"})
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: r.authority.Pool(), ServerName: "control-plane",
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}},
	}
	conn, err := rpc.Dial(r.address, func(context.Context) (*tls.Config, error) { return config, nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func connect(t *testing.T, conn *grpc.ClientConn, hello *agentv1.Hello) agentv1.AgentService_ConnectClient {
	t.Helper()
	stream, err := agentv1.NewAgentServiceClient(conn).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	say(t, stream, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}})
	return stream
}

func say(t *testing.T, stream agentv1.AgentService_ConnectClient, request *agentv1.ConnectRequest) {
	t.Helper()
	if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

// hear returns the next message that is no pool target.
func hear(t *testing.T, stream agentv1.AgentService_ConnectClient) *agentv1.ConnectResponse {
	t.Helper()
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetPoolTarget() == nil {
			return m
		}
	}
}

func hello(node string) *agentv1.Hello {
	return &agentv1.Hello{NodeName: node, DataAddress: node + ":7070", Runtimes: []string{"node24"}, Capacity: &agentv1.Capacity{MilliCpu: 500, MemoryBytes: 1 << 30, Pods: 10}}
}

func TestConnectRefuses(t *testing.T) {
	r := run(t)
	unspoken := hello("n1")
	unspoken.DataAddress = ""
	for _, c := range []struct {
		name  string
		role  identity.Role
		hello *agentv1.Hello
		want  codes.Code
	}{
		{"another node's Hello", identity.RoleAgent, hello("n2"), codes.PermissionDenied},
		{"no node", identity.RoleAgent, hello(""), codes.PermissionDenied},
		{"no Hello", identity.RoleAgent, nil, codes.InvalidArgument},
		{"no address", identity.RoleAgent, unspoken, codes.InvalidArgument},
		{"a gateway", identity.RoleGateway, hello("n1"), codes.PermissionDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			stream, err := agentv1.NewAgentServiceClient(r.dial(t, c.role, "n1")).Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			first := &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_PoolStatus{PoolStatus: &agentv1.PoolStatus{}}}
			if c.hello != nil {
				first.Message = &agentv1.ConnectRequest_Hello{Hello: c.hello}
			}
			say(t, stream, first)
			if _, err := stream.Recv(); status.Code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if nodes := r.pool.Nodes(); len(nodes) != 0 {
		t.Errorf("connected: %v", nodes)
	}
}

// TestOnePodsLife takes a pod from its assignment through all edges to its end.
func TestOnePodsLife(t *testing.T) {
	r := run(t)
	if err := r.pool.Check(t.Context()); err == nil {
		t.Error("ready before the pods are known")
	}
	agent := connect(t, r.dial(t, identity.RoleAgent, "n1"), hello("n1"))
	routes, err := routesv1.NewRouteServiceClient(r.dial(t, identity.RoleGateway, "n9")).Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := routes.Send(&routesv1.WatchRequest{}); err != nil {
		t.Fatal(err)
	}
	if err := r.pool.Assign(t.Context(), assignment("a", "r1"), exposed); err != nil {
		t.Fatal(err)
	}
	r.pool.Synced([]string{"a"})
	if sync := hear(t, agent).GetSync(); sync == nil || len(sync.GetAssignments()) != 0 || sync.GetGeneration() != 1 {
		t.Fatalf("first message %v, want an empty Sync of generation 1: the pod may be another agent's until the books settle", sync)
	}
	r.settle()
	assigned := hear(t, agent).GetAssign()
	if assigned.GetPodUid() != "a" || assigned.GetEpoch().GetGeneration() != 1 || assigned.GetStartParked() {
		t.Fatalf("assigned %v", assigned)
	}
	table := &watcher{}
	follow := func() {
		t.Helper()
		response, err := routes.Recv()
		if err != nil {
			t.Fatal(err)
		}
		table.apply(response)
	}
	follow() // the gateway, which is told something, is one that has to hear of the pod
	instance := &agentv1.Instance{LeaseId: "l", Address: "n1:20000", Nonce: "n"}
	say(t, agent, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_PodStatus{PodStatus: &agentv1.PodStatus{PodUid: "a", Epoch: assigned.GetEpoch(), State: active, Instance: instance}}})
	for {
		follow()
		if route := table.routes["a"]; route.GetReady() {
			if s := r.pool.Status("a"); s.GetState() == active {
				t.Error("the pod is ready before the gateway has said that it has its route")
			}
			if route.GetHomeAddress() != "n1:7070" || len(route.GetInstances()) != 1 || route.GetInstances()[0].GetNonce() != "n" {
				t.Errorf("route %v", route)
			}
			break
		}
	}
	if err := routes.Send(&routesv1.WatchRequest{Generation: table.generation, Revision: table.revision}); err != nil {
		t.Fatal(err)
	}
	for r.pool.Status("a").GetState() != active {
		<-r.changed
	}
	if err := r.pool.Withdraw(t.Context(), "a", 3*time.Second); err != nil {
		t.Fatal(err)
	}
	withdrawal := hear(t, agent).GetWithdraw()
	if withdrawal.GetPodUid() != "a" || withdrawal.GetGracePeriod().AsDuration() != 3*time.Second {
		t.Fatalf("withdrawn %v", withdrawal)
	}
	say(t, agent, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_PodStatus{PodStatus: &agentv1.PodStatus{PodUid: "a", Epoch: withdrawal.GetEpoch(), State: goneState}}})
	for r.pool.Status("a") != nil {
		<-r.changed
	}
	for len(table.routes) > 0 {
		response, err := routes.Recv()
		if err != nil {
			t.Fatal(err)
		}
		table.apply(response)
	}
	if c, _ := r.pool.Capacity(); c.GetMilliCpu() != 500 || c.GetPods() != 10 {
		t.Errorf("capacity %v", c)
	}
	say(t, agent, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Leaving{Leaving: &agentv1.Leaving{}}})
	if m := hear(t, agent); m.GetFarewell() == nil {
		t.Errorf("a leaving agent without pods hears %v, want the farewell", m)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.pool)
	if families, err := registry.Gather(); err != nil || len(families) == 0 {
		t.Errorf("metrics: %v %v", families, err)
	}
}

func TestNewerStreamAbortsTheOlder(t *testing.T) {
	r := run(t)
	r.pool.Synced(nil)
	conn := r.dial(t, identity.RoleAgent, "n1")
	older := connect(t, conn, hello("n1"))
	hear(t, older)
	newer := connect(t, conn, hello("n1"))
	hear(t, newer)
	for {
		_, err := older.Recv()
		if err == nil {
			continue
		}
		if status.Code(err) != codes.Aborted {
			t.Errorf("the older stream ended with %v, want ABORTED", err)
		}
		return
	}
}

func TestPoolTargetIsTold(t *testing.T) {
	r := run(t)
	r.pool.Synced(nil)
	r.settle()
	both := hello("n1")
	both.Runtimes = []string{"node24", "node26"}
	stream := connect(t, r.dial(t, identity.RoleAgent, "n1"), both)
	targets := map[string]int32{}
	next := func() {
		t.Helper()
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if target := m.GetPoolTarget(); target != nil {
				targets[target.GetRuntime()] = target.GetWarm()
				return
			}
		}
	}
	next()
	next()
	if targets["node24"] != 3 || targets["node26"] != 1 {
		t.Errorf("targets %v, want 3 of the default runtime and 1 of the one that nobody uses", targets)
	}
	pod := assignment("a", "r1")
	pod.Runtime = "node26"
	if err := r.pool.Assign(t.Context(), pod, exposed); err != nil {
		t.Fatal(err)
	}
	next()
	if targets["node24"] != 3 || targets["node26"] != 3 {
		t.Errorf("targets %v, want 3 of the runtime that a pod uses, too", targets)
	}
}

func TestFetchBundle(t *testing.T) {
	r := run(t)
	data, digest := content(1, 2*chunkBytes+5)
	if err := r.pool.Put(t.Context(), digest, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	client := agentv1.NewAgentServiceClient(r.dial(t, identity.RoleAgent, "n1"))
	fetch := func(digest string) ([]byte, error) {
		stream, err := client.FetchBundle(t.Context(), &agentv1.FetchBundleRequest{Digest: digest})
		if err != nil {
			return nil, err
		}
		var got []byte
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return got, nil
			}
			if err != nil {
				return got, err
			}
			got = append(got, m.GetData()...)
		}
	}
	if got, err := fetch(digest); err != nil || !bytes.Equal(got, data) {
		t.Errorf("fetched %d bytes, %v", len(got), err)
	}
	_, unknown := content(2, 1)
	if _, err := fetch(unknown); status.Code(err) != codes.NotFound {
		t.Errorf("unknown: %v, want NOT_FOUND", err)
	}
	if _, err := fetch("sha256:" + strings.Repeat("g", 64)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("malformed: %v, want INVALID_ARGUMENT", err)
	}
}

// TestLedgerOutlivesTheProcess: homes that were decided are read by the next.
func TestLedgerOutlivesTheProcess(t *testing.T) {
	dir := t.TempDir()
	open := func(generation uint64) *Pool {
		pool, err := Open(Config{DataDir: dir, Generation: generation, MaxBundleBytes: 1 << 20, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		return pool
	}
	pool := open(1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- pool.Run(ctx) }()
	now := time.Now()
	pool.books.Resynced(now)
	if _, err := pool.books.Connect(hello("n1"), time.Now, now); err != nil {
		t.Fatal(err)
	}
	pool.books.Tick(now.Add(settleWithin + time.Second))
	if err := pool.Assign(t.Context(), assignment("a", "r1"), exposed); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := pool.Close(); err != nil {
		t.Fatal(err)
	}
	pool = open(2)
	defer pool.Close()
	if home := pool.books.ledger["a"]; home.Node != "n1" || home.Epoch.GetGeneration() != 1 {
		t.Errorf("the next process reads %v", home)
	}
}

// TestLargeSyncIsReceived: an agent's pods may have many Secrets.
func TestLargeSyncIsReceived(t *testing.T) {
	r := run(t)
	for i := range 6 {
		if err := r.pool.Assign(t.Context(), withFiles(fmt.Sprint(i), 7<<20), exposed); err != nil {
			t.Fatal(err)
		}
	}
	r.pool.Synced(nil)
	stream, err := agentv1.NewAgentServiceClient(r.dial(t, identity.RoleAgent, "n1")).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	hello := &agentv1.Hello{NodeName: "n1", DataAddress: "n1:7070", Runtimes: []string{"node24"}}
	for i := range 6 {
		hello.Pods = append(hello.Pods, &agentv1.PodStatus{PodUid: fmt.Sprint(i), Epoch: &agentv1.Epoch{Counter: 1}, State: active})
	}
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(first.GetSync().GetAssignments()); n != 6 {
		t.Errorf("%d assignments, want 6", n)
	}
}
