package identity

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "sanfran.dev/proto/sanfran/identity/v1"
)

// Caller is whom a token belongs to, as Kubernetes says.
type Caller struct {
	Namespace      string
	ServiceAccount string
	// The pod the token is bound to and its node; empty for tokens that are
	// not bound to a pod.
	PodName  string
	PodUID   string
	NodeName string
}

// TokenReviewer asks Kubernetes about a token of audience "sanfran".
type TokenReviewer interface {
	// ReviewToken returns whom the token belongs to. A token that Kubernetes
	// does not accept is ErrToken; any other error means that it could not be
	// asked.
	ReviewToken(ctx context.Context, token string) (Caller, error)
}

// ErrToken says that a token is not valid: expired, of another audience, of a
// pod that is gone, or no token at all.
var ErrToken = errors.New("the token is not valid")

// ServiceAccount names one ServiceAccount of the cluster.
type ServiceAccount struct{ Namespace, Name string }

// maxTokenBytes bounds what is sent on to Kubernetes; real ones are about 1 KiB.
const maxTokenBytes = 32 << 10

// Server is the IdentityService. It is safe for concurrent use.
type Server struct {
	identityv1.UnimplementedIdentityServiceServer
	authority *Authority
	reviewer  TokenReviewer
	roles     map[ServiceAccount]Role
	log       *slog.Logger
}

// NewServer returns an IdentityService that issues certificates of authority
// to pods of the ServiceAccounts in roles.
func NewServer(authority *Authority, reviewer TokenReviewer, roles map[ServiceAccount]Role, log *slog.Logger) *Server {
	return &Server{authority: authority, reviewer: reviewer, roles: roles, log: log}
}

// IssueCertificate implements identityv1.IdentityServiceServer.
func (s *Server) IssueCertificate(ctx context.Context, req *identityv1.IssueCertificateRequest) (*identityv1.IssueCertificateResponse, error) {
	if req.GetToken() == "" || len(req.GetToken()) > maxTokenBytes {
		return nil, status.Errorf(codes.Unauthenticated, "the request holds no token of a plausible size (%d bytes)", len(req.GetToken()))
	}
	caller, err := s.reviewer.ReviewToken(ctx, req.GetToken())
	if errors.Is(err, ErrToken) {
		s.log.Warn("certificate refused, token not valid", "error", err)
		return nil, status.Errorf(codes.Unauthenticated, "%v", err)
	}
	if err != nil {
		s.log.Error("a token could not be reviewed", "error", err)
		return nil, status.Errorf(codes.Unavailable, "Kubernetes could not be asked about the token: %v", err)
	}
	role, ok := s.roles[ServiceAccount{caller.Namespace, caller.ServiceAccount}]
	if !ok {
		s.log.Warn("certificate refused, no role", "namespace", caller.Namespace, "serviceAccount", caller.ServiceAccount, "pod", caller.PodName)
		return nil, status.Errorf(codes.PermissionDenied,
			"ServiceAccount %s/%s has no role in SanFran; see the flags --agent-service-account and --gateway-service-account of the control plane",
			caller.Namespace, caller.ServiceAccount)
	}
	if caller.PodName == "" || caller.PodUID == "" || caller.NodeName == "" {
		return nil, status.Errorf(codes.PermissionDenied,
			"the token of ServiceAccount %s/%s is not bound to a pod on a node: use a projected token, or kubectl create token --bound-object-kind Pod",
			caller.Namespace, caller.ServiceAccount)
	}
	peer := Peer{Role: role, Node: caller.NodeName, PodNamespace: caller.Namespace, PodName: caller.PodName, PodUID: caller.PodUID}
	chain, notAfter, err := s.authority.IssueClient(req.GetCertificateRequest(), peer)
	if errors.Is(err, ErrRequest) {
		return nil, status.Errorf(codes.InvalidArgument, "%v", err)
	}
	if err != nil {
		s.log.Error("a certificate could not be issued", "peer", peer, "error", err)
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	s.log.Info("certificate issued", "role", peer.Role, "node", peer.Node, "pod", peer.PodNamespace+"/"+peer.PodName, "notAfter", notAfter)
	return &identityv1.IssueCertificateResponse{CertificateChain: chain, NotAfter: timestamppb.New(notAfter)}, nil
}

// Register adds the service to server.
func (s *Server) Register(server grpc.ServiceRegistrar) {
	identityv1.RegisterIdentityServiceServer(server, s)
}
