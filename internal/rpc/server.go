// Package rpc is gRPC as SanFran's components speak it with each other:
// mutually authenticated TLS 1.3, a role demanded for every service, and
// timing by which a silent peer is noticed within three seconds. It knows the
// components' roles, not what they say.
package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"sanfran.dev/internal/identity"
)

const (
	// pingAfter and pingTimeout: a server asks an idle client for a sign of
	// life every second and closes the connection of one that has given none
	// for three.
	pingAfter   = time.Second
	pingTimeout = 2 * time.Second
	// maxRequestBytes bounds one message to the server. The greatest is an
	// agent's Hello with all its pods: 10,000 that fail, each with the first
	// lines of its stack, are about 20 MB.
	maxRequestBytes = 32 << 20
	// MaxMessageBytes bounds one message of the server. The greatest is an
	// agent's Sync, which holds all its assignments with their Secrets.
	MaxMessageBytes = 256 << 20
)

// Access says who may call a service.
type Access struct {
	anyone bool
	roles  []identity.Role
}

// Anyone lets callers without a certificate in.
func Anyone() Access { return Access{anyone: true} }

// Roles lets callers in whose certificate names one of roles.
func Roles(roles ...identity.Role) Access { return Access{roles: roles} }

// Policy gives access by the full name of a service, such as
// "sanfran.agent.v1.AgentService". A service it does not name is closed.
type Policy map[string]Access

// NewServer returns a gRPC server that lets calls in by policy. Handlers find
// the caller with PeerFrom.
func NewServer(config *tls.Config, policy Policy, log *slog.Logger) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.MaxSendMsgSize(MaxMessageBytes),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: clientPingAfter / 2, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			ctx, err := policy.admit(ctx, info.FullMethod)
			if err != nil {
				logEnd(ctx, log, info.FullMethod, err)
				return nil, err
			}
			resp, err := handler(ctx, req)
			logEnd(ctx, log, info.FullMethod, err)
			return resp, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			ctx, err := policy.admit(stream.Context(), info.FullMethod)
			if err == nil {
				err = handler(srv, &admitted{ServerStream: stream, ctx: ctx})
			}
			logEnd(ctx, log, info.FullMethod, err)
			return err
		}),
	)
}

type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (a *admitted) Context() context.Context { return a.ctx }

type peerKey struct{}

// PeerFrom returns who calls. It is false only in services that let anyone in.
func PeerFrom(ctx context.Context) (identity.Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(identity.Peer)
	return p, ok
}

// admit returns ctx with the caller's identity, or why the call is refused.
func (p Policy) admit(ctx context.Context, method string) (context.Context, error) {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	access, ok := p[service]
	if !ok {
		return ctx, status.Errorf(codes.PermissionDenied, "%s is open to nobody", service)
	}
	caller, err := verifiedPeer(ctx)
	if err != nil {
		if access.anyone {
			return ctx, nil
		}
		return ctx, status.Errorf(codes.Unauthenticated, "%s: %v", method, err)
	}
	ctx = context.WithValue(ctx, peerKey{}, caller)
	if !access.anyone && !slices.Contains(access.roles, caller.Role) {
		return ctx, status.Errorf(codes.PermissionDenied, "%s is not for the role %q, which the certificate of %v names", method, caller.Role, caller)
	}
	return ctx, nil
}

func verifiedPeer(ctx context.Context) (identity.Peer, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.Peer{}, errors.New("the connection is unknown")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.Peer{}, errors.New("the connection is not TLS")
	}
	if len(info.State.VerifiedChains) == 0 {
		return identity.Peer{}, errors.New("the caller presented no client certificate")
	}
	return identity.ParsePeer(info.State.VerifiedChains[0][0])
}

// logEnd logs calls that failed; what a caller ended itself is no failure.
func logEnd(ctx context.Context, log *slog.Logger, method string, err error) {
	code := status.Code(err)
	if code == codes.OK || code == codes.Canceled {
		return
	}
	attrs := []any{"method", method, "code", code.String(), "error", err}
	if p, ok := PeerFrom(ctx); ok {
		attrs = append(attrs, "peer", p.String())
	} else if p, ok := peer.FromContext(ctx); ok {
		attrs = append(attrs, "remote", p.Addr.String())
	}
	log.Warn("call failed", attrs...)
}

// Serve serves until ctx ends, then lets calls in flight finish for at most
// grace and cuts off the rest. Long-lived streams never finish by themselves:
// their handlers must watch for the end of the server on their own, or be cut.
func Serve(ctx context.Context, server *grpc.Server, listener net.Listener, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(watched(listener)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve gRPC on %v: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(grace, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	<-failed
	return nil
}
