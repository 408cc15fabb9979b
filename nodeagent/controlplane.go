package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"sanfran.dev/nodeagent/container"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// controlPlane is the agent's edge to the control plane. While that is away
// everything else goes on; the stream comes back by itself.
type controlPlane struct {
	agent  *Agent
	client agentv1.AgentServiceClient
	// streams are opened when the control plane says so.
	streams *streams
	// synced is closed when the control plane has told all assignments once.
	synced     chan struct{}
	syncedOnce sync.Once
}

// Conn is a connection to the control plane. Its owner, who closes it after
// the agent's Run has returned, authenticates it.
type Conn = grpc.ClientConnInterface

func newControlPlane(a *Agent, conn Conn) *controlPlane {
	return &controlPlane{agent: a, client: agentv1.NewAgentServiceClient(conn), streams: &streams{agent: a, client: streamsv1.NewStreamServiceClient(conn)}, synced: make(chan struct{})}
}

// Delays between streams that break.
const (
	reconnectFirst = 50 * time.Millisecond
	reconnectLast  = 2 * time.Second
)

// poolReportEvery is how often the pool's numbers are looked at.
const poolReportEvery = time.Second

// statusRest is how long the control plane hears of a change later: a cold request
// is mostly answered by then.
const statusRest = 5 * time.Millisecond

// run keeps a stream until ctx ends.
func (c *controlPlane) run(ctx context.Context) {
	c.streams.ctx = ctx
	defer c.streams.running.Wait()
	delay := reconnectFirst
	for {
		received, err := c.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if received {
			delay = reconnectFirst
		}
		c.agent.log.Warn("no stream to the control plane; pods go on as they are", "retryIn", delay, "err", err)
		select {
		case <-ctx.Done():
			return
		// Half of the delay is random, so that agents do not come back in step.
		case <-time.After(delay/2 + rand.N(delay/2)):
		}
		delay = min(2*delay, reconnectLast)
	}
}

// session is one stream. It reports whether the control plane said anything.
func (c *controlPlane) session(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.client.Connect(ctx)
	if err != nil {
		cancel()
		return false, err
	}
	c.agent.outbox.connect()
	defer c.agent.outbox.disconnect()
	ended := make(chan error, 1)
	go func() { ended <- c.receive(stream, &received) }()
	err = c.send(ctx, stream, ended)
	cancel()
	c.agent.metrics.connected.Set(0)
	// send returned either because receive had ended, or with an error of its
	// own; then the cancelled stream ends receive.
	if !errors.Is(err, errReceiveEnded) {
		<-ended
	}
	return received, err
}

var errReceiveEnded = errors.New("the stream ended")

// send says hello, then whatever changes.
func (c *controlPlane) send(ctx context.Context, stream agentv1.AgentService_ConnectClient, ended <-chan error) error {
	if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: c.hello()}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	ticker := time.NewTicker(poolReportEvery)
	defer ticker.Stop()
	reported := map[string]PoolStatus{}
	leave := c.agent.leaving.begun
	for {
		var messages []*agentv1.ConnectRequest
		select {
		case err := <-ended:
			return fmt.Errorf("%w: %w", errReceiveEnded, err)
		case <-ctx.Done():
			// Told by the end of receive as well, which is waited for.
			return ctx.Err()
		case <-c.agent.outbox.filled:
			// What this sets going, here and in whoever hears of it, is not to be in
			// the way of the request that made the pod active.
			select {
			case <-time.After(statusRest):
			case <-ctx.Done():
			}
			for _, s := range c.agent.outbox.take() {
				messages = append(messages, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_PodStatus{PodStatus: podStatus(s)}})
			}
		case <-leave:
			leave = nil // once on each stream
			messages = append(messages, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Leaving{Leaving: &agentv1.Leaving{}}})
		case <-ticker.C:
		}
		for _, s := range c.agent.warmers.Status() {
			if reported[s.Runtime] != s {
				reported[s.Runtime] = s
				messages = append(messages, &agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_PoolStatus{PoolStatus: poolStatus(s)}})
			}
		}
		for _, m := range messages {
			// io.EOF means that the stream has ended; receive says why.
			if err := stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
				return err
			}
		}
	}
}

func (c *controlPlane) hello() *agentv1.Hello {
	cfg, share := c.agent.cfg, c.agent.share
	hello := &agentv1.Hello{
		NodeName: cfg.NodeName, DataAddress: cfg.dataAddress(),
		Capacity: &agentv1.Capacity{MilliCpu: share.MilliCPU, MemoryBytes: share.MemoryBytes, Pods: share.Pods},
		Runtimes: slices.Sorted(maps.Keys(cfg.Runtimes)),
	}
	for _, p := range c.agent.pods.all() {
		hello.Pods = append(hello.Pods, podStatus(p.status()))
	}
	return hello
}

// receive applies what the control plane says until the stream ends. Nothing
// it does waits for a pod.
func (c *controlPlane) receive(stream agentv1.AgentService_ConnectClient, received *bool) error {
	for {
		response, err := stream.Recv()
		if err != nil {
			return err
		}
		if !*received {
			*received = true
			c.agent.metrics.connected.Set(1)
			c.agent.log.Info("connected to the control plane")
		}
		if err := c.apply(response); err != nil {
			return err
		}
	}
}

// apply does what one message says. An error ends the stream: nothing of what
// follows on it is to be obeyed.
func (c *controlPlane) apply(response *agentv1.ConnectResponse) error {
	log := c.agent.log
	switch m := response.GetMessage().(type) {
	case *agentv1.ConnectResponse_Sync:
		if err := c.agent.pods.hear(m.Sync.GetGeneration()); err != nil {
			return err
		}
		assignments := make([]*Assignment, 0, len(m.Sync.GetAssignments()))
		for _, a := range m.Sync.GetAssignments() {
			assignments = append(assignments, assignmentOf(a))
		}
		if err := c.agent.pods.sync(assignments); err != nil {
			log.Error("not all assignments were taken on", "err", err)
		}
		c.syncedOnce.Do(func() { close(c.synced) })
	case *agentv1.ConnectResponse_Assign:
		a := assignmentOf(m.Assign)
		if err := c.agent.pods.assign(a); err != nil {
			log.Error("an assignment was not taken on", "pod", a.PodUID, "name", a.PodName, "err", err)
		}
	case *agentv1.ConnectResponse_Withdraw:
		w := m.Withdraw
		end, grace := c.agent.pods.withdraw, c.agent.cfg.DrainGrace
		if w.GetGracePeriod() != nil {
			end, grace = c.agent.pods.delete, max(0, w.GetGracePeriod().AsDuration())
		}
		if err := end(w.GetPodUid(), epochOf(w.GetEpoch()), grace); err != nil {
			log.Warn("a withdrawal", "pod", w.GetPodUid(), "err", err)
		}
	case *agentv1.ConnectResponse_Farewell:
		c.agent.leaving.dismissed()
	case *agentv1.ConnectResponse_Dial:
		c.streams.dialed(m.Dial.GetStreamId())
	case *agentv1.ConnectResponse_PoolTarget:
		if err := c.agent.warmers.SetTarget(m.PoolTarget.GetRuntime(), int(m.PoolTarget.GetWarm())); err != nil {
			log.Error("a pool target", "runtime", m.PoolTarget.GetRuntime(), "err", err)
		}
	default:
		log.Warn("the control plane said something this agent does not know; it may be newer", "type", fmt.Sprintf("%T", m))
	}
	return nil
}

func epochOf(e *agentv1.Epoch) Epoch {
	return Epoch{Generation: e.GetGeneration(), Counter: e.GetCounter()}
}

// assignmentOf takes a message's content over; validation comes later.
func assignmentOf(m *agentv1.Assignment) *Assignment {
	a := &Assignment{
		Epoch: epochOf(m.GetEpoch()), PodUID: m.GetPodUid(), Namespace: m.GetNamespace(), PodName: m.GetPodName(),
		Function: m.GetFunction(), Revision: m.GetRevision(), Runtime: m.GetRuntime(), Entry: m.GetEntry(),
		Env:         map[string]string{},
		Resources:   resourcesOf(m.GetResources()),
		IdleTimeout: m.GetIdleTimeout().AsDuration(), StartParked: m.GetStartParked(), Hostname: m.GetHostname(),
		Command: m.GetCommand(), WorkingDir: m.GetWorkingDir(), ParkServer: m.GetParkServer(),
		DNS: DNS{Nameservers: m.GetDns().GetNameservers(), Searches: m.GetDns().GetSearches(), Options: m.GetDns().GetOptions()},
	}
	// Whatever does not fit is left zero, which validation refuses.
	if addr, err := netip.ParseAddr(m.GetAddress()); err == nil {
		a.Address = addr.Unmap()
	}
	if m.GetAddress6() != "" {
		a.Address6, _ = netip.ParseAddr(m.GetAddress6())
		if !a.Address6.IsValid() {
			a.Address6 = a.Address // which is not IPv6
		}
	}
	if m.GetPort() <= 65535 {
		a.Port = uint16(m.GetPort())
	}
	for _, e := range m.GetEnv() {
		a.Env[e.GetName()] = e.GetValue()
	}
	for _, mount := range m.GetMounts() {
		pm := PodMount{Path: mount.GetPath()}
		switch s := mount.GetSource().(type) {
		case *agentv1.Mount_Bundle:
			pm.Bundle = s.Bundle
		case *agentv1.Mount_Files:
			pm.Files = s.Files.GetFiles()
			if pm.Files == nil {
				pm.Files = map[string][]byte{}
			}
		case *agentv1.Mount_EmptyDir:
			pm.EmptyDir, pm.EmptyDirBytes = s.EmptyDir.GetName(), s.EmptyDir.GetSizeBytes()
		}
		a.Mounts = append(a.Mounts, pm)
	}
	return a
}

func resourcesOf(m *agentv1.Resources) container.Resources {
	return container.Resources{
		MilliCPU: m.GetMilliCpu(), MilliCPURequest: m.GetMilliCpuRequest(),
		MemoryBytes: m.GetMemoryBytes(), MemoryRequestBytes: m.GetMemoryRequestBytes(),
		TmpBytes: m.GetEphemeralBytes(),
	}
}

var stateMessages = map[State]agentv1.PodState{
	Preparing: agentv1.PodState_POD_STATE_PREPARING,
	Active:    agentv1.PodState_POD_STATE_ACTIVE,
	Parked:    agentv1.PodState_POD_STATE_PARKED,
	Failed:    agentv1.PodState_POD_STATE_FAILED,
	Gone:      agentv1.PodState_POD_STATE_GONE,
}

func podStatus(s status) *agentv1.PodStatus {
	m := &agentv1.PodStatus{
		PodUid: s.PodUID, Epoch: &agentv1.Epoch{Generation: s.Epoch.Generation, Counter: s.Epoch.Counter},
		State: stateMessages[s.State], RestartCount: int32(s.Restarts), Stays: s.Stays,
	}
	if t := s.Last; t != nil {
		m.LastTermination = &agentv1.Termination{
			Reason: t.reason, Message: t.message, ExitCode: int32(t.code), Signal: int32(t.signal),
			StartedAt: timestamppb.New(t.startedAt), FinishedAt: timestamppb.New(t.finishedAt),
		}
	}
	if s.Failure != nil {
		m.Reason, m.Message = s.Failure.reason, s.Failure.message
	}
	if s.Instance != nil && s.State == Active {
		m.Instance = &agentv1.Instance{LeaseId: s.Instance.lease, Address: s.Instance.address(), Nonce: s.Instance.nonce}
	}
	if !s.StartedAt.IsZero() {
		m.StartedAt = timestamppb.New(s.StartedAt)
	}
	return m
}

func poolStatus(s PoolStatus) *agentv1.PoolStatus {
	return &agentv1.PoolStatus{
		Runtime: s.Runtime, Warming: int32(s.Warming), Warm: int32(s.Warm), Leased: int32(s.Leased), Draining: int32(s.Draining),
		StartFailures: s.StartFailures, FailuresInARow: int32(s.FailuresInARow), LastFailure: s.LastFailure,
	}
}

// Fetch implements bundle.Fetcher.
func (c *controlPlane) Fetch(ctx context.Context, digest string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.client.FetchBundle(ctx, &agentv1.FetchBundleRequest{Digest: digest})
	if err != nil {
		cancel()
		return nil, fetchError(err)
	}
	return &bundleStream{stream: stream, cancel: cancel}, nil
}

func fetchError(err error) error {
	if grpcstatus.Code(err) == codes.NotFound {
		return fmt.Errorf("the control plane does not have the bundle: %w", err)
	}
	return err
}

// bundleStream reads a bundle's parts as one stream of bytes.
type bundleStream struct {
	stream agentv1.AgentService_FetchBundleClient
	cancel context.CancelFunc
	rest   []byte
}

// Read implements io.Reader.
func (b *bundleStream) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		m, err := b.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, fetchError(err)
		}
		b.rest = m.GetData()
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// Close implements io.Closer.
func (b *bundleStream) Close() error {
	b.cancel()
	return nil
}
