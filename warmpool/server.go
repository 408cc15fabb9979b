package warmpool

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sanfran.dev/internal/rpc"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	streamsv1 "sanfran.dev/proto/sanfran/streams/v1"
)

// Sync must fit into one message, with room for what its encoding adds.
const _ = uint(rpc.MaxMessageBytes - maxAssignments*4/3)

// Server is the gRPC edge of the books: AgentService, RouteService and
// StreamService. Streams
// end with UNAVAILABLE when the context it was made with does, so that a
// stopping server need not cut them off.
type Server struct {
	agentv1.UnimplementedAgentServiceServer
	routesv1.UnimplementedRouteServiceServer
	streamsv1.UnimplementedStreamServiceServer
	ctx     context.Context
	books   *Books
	routes  *RouteTable
	store   *Store
	streams *Streams
	log     *slog.Logger
}

// NewServer returns the services over books, routes, store and streams, for as
// long as ctx lasts.
func NewServer(ctx context.Context, books *Books, routes *RouteTable, store *Store, streams *Streams, log *slog.Logger) *Server {
	return &Server{ctx: ctx, books: books, routes: routes, store: store, streams: streams, log: log}
}

// Register adds all services to server.
func (s *Server) Register(server *grpc.Server) {
	agentv1.RegisterAgentServiceServer(server, s)
	routesv1.RegisterRouteServiceServer(server, s)
	streamsv1.RegisterStreamServiceServer(server, s)
}

var errStopping = status.Error(codes.Unavailable, "the control plane is stopping")

// Connect implements agentv1.AgentServiceServer.
func (s *Server) Connect(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) error {
	hello, err := s.hello(stream)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	session, err := s.books.Connect(hello, func() time.Time {
		heard, ok := rpc.LastHeard(ctx)
		if !ok {
			return time.Now() // without a count the stream's own end must do
		}
		return heard
	}, time.Now())
	if err != nil {
		return status.Errorf(codes.FailedPrecondition, "%v", err)
	}
	log := s.log.With("node", hello.GetNodeName())
	log.Info("agent connected", "dataAddress", hello.GetDataAddress(), "pods", len(hello.GetPods()), "runtimes", hello.GetRuntimes())
	defer func() {
		s.books.Disconnect(session, time.Now())
		log.Info("agent disconnected", "error", err)
	}()

	// Recv returns when the stream ends, which it does when this handler
	// returns: that ends the goroutine.
	received := make(chan error, 1)
	go func() { received <- s.receive(stream, session) }()
	err = s.send(stream, session, received)
	return err
}

func (s *Server) hello(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) (*agentv1.Hello, error) {
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	hello := first.GetHello()
	peer, _ := rpc.PeerFrom(stream.Context())
	switch {
	case hello == nil:
		return nil, status.Error(codes.InvalidArgument, "the first message of Connect must be Hello")
	case hello.GetNodeName() == "" || hello.GetNodeName() != peer.Node:
		return nil, status.Errorf(codes.PermissionDenied, "Hello names the node %q, the certificate %q: an agent speaks for its own node only", hello.GetNodeName(), peer.Node)
	case hello.GetDataAddress() == "":
		return nil, status.Error(codes.InvalidArgument, "Hello lacks data_address")
	}
	return hello, nil
}

func (s *Server) receive(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse], session *Session) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		switch m := request.GetMessage().(type) {
		case *agentv1.ConnectRequest_PodStatus:
			s.books.ReportPod(session, m.PodStatus, time.Now())
		case *agentv1.ConnectRequest_PoolStatus:
			s.books.ReportPool(session, m.PoolStatus)
		case *agentv1.ConnectRequest_Leaving:
			s.log.Info("agent leaves, its pods are given to others", "node", session.node)
			s.books.Leave(session, time.Now())
		default:
			return status.Errorf(codes.InvalidArgument, "unexpected message %T after Hello", m)
		}
	}
}

func (s *Server) send(stream grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse], session *Session, received <-chan error) error {
	resynced := s.books.ResyncedDone()
	for {
		select {
		case <-resynced:
			resynced = nil
			sync := &agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Sync{Sync: s.books.Sync(session)}}
			if err := stream.Send(sync); err != nil {
				return err
			}
			continue
		case <-session.Wake():
		case <-session.Ended():
			return status.Errorf(codes.Aborted, "%v", session.Cause())
		case err := <-received:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-s.ctx.Done():
			return errStopping
		}
		for _, message := range s.books.Take(session) {
			if err := stream.Send(message); err != nil {
				return err
			}
		}
	}
}

// FetchBundle implements agentv1.AgentServiceServer.
func (s *Server) FetchBundle(req *agentv1.FetchBundleRequest, stream grpc.ServerStreamingServer[agentv1.FetchBundleResponse]) error {
	if err := checkDigest(req.GetDigest()); err != nil {
		return status.Errorf(codes.InvalidArgument, "%v", err)
	}
	r, err := s.store.Open(req.GetDigest())
	if errors.Is(err, ErrNoBundle) {
		return status.Errorf(codes.NotFound, "%v", err)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "%v", err)
	}
	defer r.Close()
	for {
		buffer := make([]byte, 256<<10)
		n, err := r.Read(buffer)
		if n > 0 {
			if err := stream.Send(&agentv1.FetchBundleResponse{Data: buffer[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, ErrNoBundle):
			return status.Errorf(codes.NotFound, "%v", err)
		case err != nil:
			return status.Errorf(codes.Internal, "%v", err)
		}
	}
}

// Answer implements streamsv1.StreamServiceServer. Whoever wanted the stream reads
// it elsewhere.
func (s *Server) Answer(stream grpc.BidiStreamingServer[streamsv1.AnswerRequest, streamsv1.AnswerResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	peer, _ := rpc.PeerFrom(stream.Context())
	over, ok := s.streams.Answered(peer.Node, first.GetStreamId(), stream)
	if !ok {
		return status.Errorf(codes.NotFound, "nobody waits for this stream of the agent on node %s (any more)", peer.Node)
	}
	select {
	case <-over:
		return nil
	case <-stream.Context().Done():
		return stream.Context().Err()
	case <-s.ctx.Done():
		return errStopping
	}
}

// Watch implements routesv1.RouteServiceServer. It says nothing before the
// books are settled: a watcher's own last table is better until then.
func (s *Server) Watch(stream grpc.BidiStreamingServer[routesv1.WatchRequest, routesv1.WatchResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	peer, _ := rpc.PeerFrom(stream.Context())
	h := s.routes.hear(peer.String())
	s.routes.acknowledge(h, first.GetGeneration(), first.GetRevision())
	defer func() { s.routes.leaves(h, time.Now()) }()
	go s.acknowledgements(stream, h) // ends with the stream
	select {
	case <-s.books.Settled():
	case <-ctx.Done():
	}
	generation, revision := first.GetGeneration(), first.GetRevision()
	for {
		response, err := s.routes.Next(ctx, generation, revision)
		switch {
		case err != nil && s.ctx.Err() != nil:
			return errStopping
		case err != nil:
			return status.FromContextError(err).Err()
		}
		if err := stream.Send(response); err != nil {
			return err
		}
		generation, revision = response.GetGeneration(), response.GetRevision()
	}
}

// acknowledgements takes what a router says it has.
func (s *Server) acknowledgements(stream grpc.BidiStreamingServer[routesv1.WatchRequest, routesv1.WatchResponse], h *hearer) {
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			s.routes.ignore(h) // it listens, and will not say what it has
			s.books.Heard(time.Now())
			return
		}
		if err != nil {
			return
		}
		s.routes.acknowledge(h, message.GetGeneration(), message.GetRevision())
		s.books.Heard(time.Now())
	}
}
