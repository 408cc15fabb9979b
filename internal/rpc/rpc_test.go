package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sanfran.dev/internal/identity"
	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
	identityv1 "sanfran.dev/proto/sanfran/identity/v1"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reviewer knows two tokens and what their pods are.
type reviewer struct{}

func (reviewer) ReviewToken(_ context.Context, token string) (identity.Caller, error) {
	switch token {
	case "agent-token":
		return identity.Caller{Namespace: "sanfran", ServiceAccount: "sanfran-agent", PodName: "agent-x", PodUID: "u1", NodeName: "node-1"}, nil
	case "gateway-token":
		return identity.Caller{Namespace: "sanfran", ServiceAccount: "sanfran-gateway", PodName: "gateway-x", PodUID: "u2", NodeName: "node-1"}, nil
	case "stranger-token":
		return identity.Caller{Namespace: "sanfran", ServiceAccount: "default", PodName: "x", PodUID: "u3", NodeName: "node-1"}, nil
	case "unbound-token":
		return identity.Caller{Namespace: "sanfran", ServiceAccount: "sanfran-agent"}, nil
	case "down":
		return identity.Caller{}, errors.New("the API server is away")
	}
	return identity.Caller{}, identity.ErrToken
}

// agents answers Connect with who called, and fetches nothing.
type agents struct {
	agentv1.UnimplementedAgentServiceServer
	calls chan identity.Peer
}

func (a *agents) FetchBundle(_ *agentv1.FetchBundleRequest, stream grpc.ServerStreamingServer[agentv1.FetchBundleResponse]) error {
	p, ok := PeerFrom(stream.Context())
	if !ok {
		return status.Error(codes.Internal, "no peer")
	}
	a.calls <- p
	heard, ok := LastHeard(stream.Context())
	if !ok || time.Since(heard) > time.Minute {
		return status.Errorf(codes.Internal, "last heard %v %v", heard, ok)
	}
	return stream.Send(&agentv1.FetchBundleResponse{Data: []byte("x")})
}

type fixture struct {
	address string
	caFile  string
	agents  *agents
}

func start(t *testing.T) *fixture {
	t.Helper()
	certPEM, keyPEM, err := identity.CreateCA()
	if err != nil {
		t.Fatal(err)
	}
	authority, err := identity.NewAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(caFile, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	server := NewServer(authority.ServerTLS("control-plane"), Policy{
		"sanfran.identity.v1.IdentityService": Anyone(),
		"sanfran.agent.v1.AgentService":       Roles(identity.RoleAgent),
	}, log)
	f := &fixture{caFile: caFile, agents: &agents{calls: make(chan identity.Peer, 8)}}
	identityv1.RegisterIdentityServiceServer(server, identity.NewServer(authority, reviewer{}, map[identity.ServiceAccount]identity.Role{
		{Namespace: "sanfran", Name: "sanfran-agent"}:   identity.RoleAgent,
		{Namespace: "sanfran", Name: "sanfran-gateway"}: identity.RoleGateway,
	}, log))
	agentv1.RegisterAgentServiceServer(server, f.agents)
	routesv1.RegisterRouteServiceServer(server, routesv1.UnimplementedRouteServiceServer{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, server, listener, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return f
}

func (f *fixture) dial(t *testing.T, config func(context.Context) (*tls.Config, error)) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial(f.address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// client trades token for a certificate and returns a connection with it.
func (f *fixture) client(t *testing.T, token string) *grpc.ClientConn {
	t.Helper()
	tokenFile := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	client := identity.NewClient(tokenFile, f.caFile, slog.New(slog.DiscardHandler))
	bare := f.dial(t, client.TLS("control-plane", false))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- client.Run(ctx, identity.IssuerOver(bare)) }()
	t.Cleanup(func() { cancel(); <-done })
	// The first call waits for the certificate.
	return f.dial(t, client.TLS("control-plane", true))
}

func fetch(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	stream, err := agentv1.NewAgentServiceClient(conn).FetchBundle(t.Context(), &agentv1.FetchBundleRequest{})
	if err != nil {
		return err
	}
	for {
		_, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func TestAgentIsLetIn(t *testing.T) {
	f := start(t)
	if err := fetch(t, f.client(t, "agent-token")); err != nil {
		t.Fatalf("FetchBundle: %v", err)
	}
	want := identity.Peer{Role: identity.RoleAgent, Node: "node-1", PodNamespace: "sanfran", PodName: "agent-x", PodUID: "u1"}
	if got := <-f.agents.calls; got != want {
		t.Errorf("the handler saw %v, want %v", got, want)
	}
}

func TestOthersAreRefused(t *testing.T) {
	f := start(t)
	certless := identity.NewClient("", f.caFile, slog.New(slog.DiscardHandler)).TLS("control-plane", false)

	// Another authority's certificate for the same name.
	otherCert, otherKey, err := identity.CreateCA()
	if err != nil {
		t.Fatal(err)
	}
	otherAuthority, err := identity.NewAuthority(otherCert, otherKey)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := otherAuthority.Serving("control-plane")(nil)
	if err != nil {
		t.Fatal(err)
	}
	withForeign := func(ctx context.Context) (*tls.Config, error) {
		config, err := certless(ctx)
		if err == nil {
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return foreign, nil }
		}
		return config, err
	}

	for _, c := range []struct {
		name string
		conn *grpc.ClientConn
		want codes.Code
		text string
	}{
		{"gateway at AgentService", f.client(t, "gateway-token"), codes.PermissionDenied, `role "gateway"`},
		{"no certificate", f.dial(t, certless), codes.Unauthenticated, "no client certificate"},
		{"foreign authority", f.dial(t, withForeign), codes.Unavailable, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := fetch(t, c.conn)
			if status.Code(err) != c.want || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
	t.Run("service outside the policy", func(t *testing.T) {
		stream, err := routesv1.NewRouteServiceClient(f.client(t, "agent-token")).Watch(t.Context())
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v, want PermissionDenied", err)
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		conn, err := tls.Dial("tcp", f.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
		if err == nil {
			conn.Close()
			t.Error("accepted")
		}
	})
	t.Run("another name", func(t *testing.T) {
		conn := f.dial(t, identity.NewClient("", f.caFile, slog.New(slog.DiscardHandler)).TLS("somebody-else", false))
		_, err := identityv1.NewIdentityServiceClient(conn).IssueCertificate(t.Context(), &identityv1.IssueCertificateRequest{})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "somebody-else") {
			t.Errorf("got %v, want a refusal that names somebody-else", err)
		}
	})
}

func TestTokensAreJudged(t *testing.T) {
	f := start(t)
	conn := f.dial(t, identity.NewClient("", f.caFile, slog.New(slog.DiscardHandler)).TLS("control-plane", false))
	for token, want := range map[string]codes.Code{
		"":                         codes.Unauthenticated,
		"nonsense":                 codes.Unauthenticated,
		"stranger-token":           codes.PermissionDenied,
		"unbound-token":            codes.PermissionDenied,
		"down":                     codes.Unavailable,
		"agent-token":              codes.InvalidArgument, // its request is empty
		strings.Repeat("x", 1<<16): codes.Unauthenticated,
	} {
		_, err := identityv1.NewIdentityServiceClient(conn).IssueCertificate(t.Context(), &identityv1.IssueCertificateRequest{Token: token})
		if status.Code(err) != want {
			t.Errorf("token %.20q: got %v, want %v", token, err, want)
		}
	}
}
