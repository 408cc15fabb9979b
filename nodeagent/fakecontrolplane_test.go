package nodeagent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// fakeControlPlane is a control plane on loopback that says what a test wants
// and remembers what the agent says.
type fakeControlPlane struct {
	agentv1.UnimplementedAgentServiceServer
	routesv1.UnimplementedRouteServiceServer
	streamsv1.UnimplementedStreamServiceServer

	t      testing.TB
	server *grpc.Server
	conn   *grpc.ClientConn

	mu      sync.Mutex
	bundles map[string][]byte
	fetches int
	sync    []*agentv1.Assignment
	// generation is what its syncs say; at first newer than any epoch of a test.
	generation uint64
	hellos     []*agentv1.Hello
	statuses   []*agentv1.PodStatus
	// heard is statuses and what hellos said of pods.
	heard []*agentv1.PodStatus
	// helloAt is when the last hello came.
	helloAt time.Time
	pools   map[string]*agentv1.PoolStatus
	// leaving counts what was said of leaving. It is answered with a farewell, if
	// taker does not say that somebody takes the pods.
	leaving int
	taker   bool
	changed chan struct{} // closed and replaced with every change
	// say is what goes to the agent's stream; routes to its watch.
	say    chan *agentv1.ConnectResponse
	routes chan *routesv1.WatchResponse
	// answers are the streams that the agent was asked for.
	answers chan streamsv1.StreamService_AnswerServer
	cut     chan struct{} // closed to end the streams
	over    chan struct{} // closed to end the answers
}

func newFakeControlPlane(t testing.TB) *fakeControlPlane {
	t.Helper()
	cp := &fakeControlPlane{
		t: t, generation: 9, bundles: map[string][]byte{}, pools: map[string]*agentv1.PoolStatus{}, changed: make(chan struct{}),
		say: make(chan *agentv1.ConnectResponse, 100), routes: make(chan *routesv1.WatchResponse, 100), answers: make(chan streamsv1.StreamService_AnswerServer, 100), cut: make(chan struct{}), over: make(chan struct{}),
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cp.server = grpc.NewServer()
	agentv1.RegisterAgentServiceServer(cp.server, cp)
	routesv1.RegisterRouteServiceServer(cp.server, cp)
	streamsv1.RegisterStreamServiceServer(cp.server, cp)
	served := make(chan error, 1)
	go func() { served <- cp.server.Serve(listener) }()
	cp.conn, err = grpc.NewClient("passthrough:///"+listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cp.conn.Close()
		cp.server.Stop()
		<-served
	})
	return cp
}

func (cp *fakeControlPlane) update(f func()) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	f()
	close(cp.changed)
	cp.changed = make(chan struct{})
}

// Connect implements agentv1.AgentServiceServer.
func (cp *fakeControlPlane) Connect(stream agentv1.AgentService_ConnectServer) error {
	// As the real one, it says nothing before it has heard Hello.
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	var sync *agentv1.Sync
	var cut chan struct{}
	cp.update(func() {
		cp.hellos = append(cp.hellos, first.GetHello())
		cp.heard = append(cp.heard, first.GetHello().GetPods()...)
		cp.helloAt = time.Now()
		sync, cut = &agentv1.Sync{Assignments: cp.sync, Generation: cp.generation}, cp.cut
	})
	received := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			cp.update(func() {
				switch {
				case m.GetPodStatus() != nil:
					cp.statuses = append(cp.statuses, m.GetPodStatus())
					cp.heard = append(cp.heard, m.GetPodStatus())
				case m.GetPoolStatus() != nil:
					cp.pools[m.GetPoolStatus().GetRuntime()] = m.GetPoolStatus()
				case m.GetLeaving() != nil:
					cp.leaving++
					if !cp.taker {
						cp.farewell()
					}
				}
			})
		}
	}()
	if err := stream.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Sync{Sync: sync}}); err != nil {
		return err
	}
	for {
		select {
		case m := <-cp.say:
			if err := stream.Send(m); err != nil {
				return err
			}
		case err := <-received:
			return err
		case <-cut:
			return grpcstatus.Error(codes.Unavailable, "cut")
		}
	}
}

// Answer implements streamsv1.StreamServiceServer.
func (cp *fakeControlPlane) Answer(stream streamsv1.StreamService_AnswerServer) error {
	cp.mu.Lock()
	over := cp.over
	cp.mu.Unlock()
	cp.answers <- stream
	select {
	case <-stream.Context().Done():
	case <-over:
	}
	return nil
}

// endStreams ends the streams that the agent was asked for.
func (cp *fakeControlPlane) endStreams() {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	close(cp.over)
	cp.over = make(chan struct{})
}

// FetchBundle implements agentv1.AgentServiceServer.
func (cp *fakeControlPlane) FetchBundle(r *agentv1.FetchBundleRequest, stream agentv1.AgentService_FetchBundleServer) error {
	cp.mu.Lock()
	data, ok := cp.bundles[r.GetDigest()]
	cp.fetches++
	cp.mu.Unlock()
	if !ok {
		return grpcstatus.Errorf(codes.NotFound, "no bundle %s", r.GetDigest())
	}
	// Small ones come in several parts, too.
	for part := range slices.Chunk(data, 1000+len(data)/1000) {
		if err := stream.Send(&agentv1.FetchBundleResponse{Data: part}); err != nil {
			return err
		}
	}
	return nil
}

// Watch implements routesv1.RouteServiceServer.
func (cp *fakeControlPlane) Watch(stream routesv1.RouteService_WatchServer) error {
	err := stream.Send(&routesv1.WatchResponse{Generation: 1, Revision: 1, Change: &routesv1.WatchResponse_Snapshot{Snapshot: &routesv1.Snapshot{}}})
	if err != nil {
		return err
	}
	for {
		select {
		case m := <-cp.routes:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// bundle stores files as a bundle and returns its digest.
func (cp *fakeControlPlane) bundle(files map[string]string) string {
	cp.t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) { // the same files, the same digest
		content := files[name]
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
			cp.t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			cp.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		cp.t.Fatal(err)
	}
	return cp.store(buf.Bytes())
}

// store keeps an archive and returns its digest.
func (cp *fakeControlPlane) store(archive []byte) string {
	sum := sha256.Sum256(archive)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.bundles[digest] = archive
	return digest
}

// assignment is a pod named name whose code is the bundle at /function.
func assignment(name, address, digest string) *agentv1.Assignment {
	a := &agentv1.Assignment{
		Epoch: &agentv1.Epoch{Generation: 1, Counter: 1}, PodUid: "uid-" + name, Namespace: "default", PodName: name, Function: name,
		Revision: "rev-" + name, Address: address, Port: 8080, Runtime: "node24", Entry: "/function", Hostname: name,
		IdleTimeout: durationpb.New(time.Minute),
	}
	if digest != "" {
		a.Mounts = []*agentv1.Mount{{Path: "/function", Source: &agentv1.Mount_Bundle{Bundle: digest}}}
	}
	return a
}

func (cp *fakeControlPlane) assign(a *agentv1.Assignment) {
	cp.say <- &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Assign{Assign: a}}
}

func (cp *fakeControlPlane) withdraw(a *agentv1.Assignment, grace time.Duration) {
	cp.say <- &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Withdraw{Withdraw: &agentv1.Withdrawal{
		PodUid: a.GetPodUid(), Epoch: a.GetEpoch(), GracePeriod: durationpb.New(grace)}}}
}

func (cp *fakeControlPlane) farewell() {
	cp.say <- &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Farewell{Farewell: &agentv1.Farewell{}}}
}

// disconnect ends the agent's stream; the next one begins with assignments.
func (cp *fakeControlPlane) disconnect(assignments ...*agentv1.Assignment) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.sync = assignments
	cp.cutOff()
}

// replace ends the agent's stream; the next one is of a control plane of the
// generation, which begins with assignments.
func (cp *fakeControlPlane) replace(generation uint64, assignments ...*agentv1.Assignment) {
	cp.mu.Lock()
	defer cp.mu.Unlock()
	cp.sync, cp.generation = assignments, generation
	cp.cutOff()
}

// cutOff ends the agent's stream. The caller holds mu.
func (cp *fakeControlPlane) cutOff() {
	close(cp.cut)
	cp.cut = make(chan struct{})
}

// wait returns once done is true of what the agent has said.
func (cp *fakeControlPlane) wait(what string, done func() bool) {
	cp.t.Helper()
	cp.waitIn(cp.t, what, done)
}

// waitIn is wait of a test within the control plane's own.
func (cp *fakeControlPlane) waitIn(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		cp.mu.Lock()
		ok, changed := done(), cp.changed
		cp.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			cp.mu.Lock()
			defer cp.mu.Unlock()
			t.Fatalf("waited in vain for %s; the statuses so far: %s", what, show(cp.statuses))
		}
	}
}

func show(statuses []*agentv1.PodStatus) string {
	var b bytes.Buffer
	for _, s := range statuses {
		fmt.Fprintf(&b, "\n  %s %s %s %s", s.GetPodUid(), s.GetState(), s.GetReason(), s.GetMessage())
	}
	return b.String()
}

// waitState waits until the pod's newest status is the state, and returns it.
func (cp *fakeControlPlane) waitState(a *agentv1.Assignment, state agentv1.PodState) *agentv1.PodStatus {
	cp.t.Helper()
	var last *agentv1.PodStatus
	cp.wait(fmt.Sprintf("%s to be %s", a.GetPodName(), state), func() bool {
		last = cp.newest(a)
		return last.GetState() == state
	})
	return last
}

// newest is a pod's newest status, or nil. The caller holds the lock, as the
// condition of wait does.
func (cp *fakeControlPlane) newest(a *agentv1.Assignment) *agentv1.PodStatus {
	return newestOf(cp.statuses, a)
}

// known is what was heard last of a pod, in a hello too, or nil. The caller holds
// the lock.
func (cp *fakeControlPlane) known(a *agentv1.Assignment) *agentv1.PodStatus {
	return newestOf(cp.heard, a)
}

func newestOf(statuses []*agentv1.PodStatus, a *agentv1.Assignment) *agentv1.PodStatus {
	for _, s := range slices.Backward(statuses) {
		if s.GetPodUid() == a.GetPodUid() {
			return s
		}
	}
	return nil
}
