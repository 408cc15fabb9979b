package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

const (
	// clientPingAfter is the least that gRPC allows a client. It finds a
	// frozen server; a dead or unreachable one is found sooner, by TCP.
	clientPingAfter   = 10 * time.Second
	clientPingTimeout = 2 * time.Second
)

// Dial returns a connection to target ("host:port") that is made when it is
// first used and again whenever it is lost, at most a second after the last
// attempt. Every attempt calls config, which may wait as long as its context
// allows; when it fails the attempt does, with its error.
func Dial(target string, config func(context.Context) (*tls.Config, error)) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("dns:///"+target,
		grpc.WithTransportCredentials(&freshTLS{config: config}),
		grpc.WithContextDialer(dialTCP),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: clientPingAfter, Timeout: clientPingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(maxRequestBytes)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
		// The control plane is one address; a proxy of the environment is never
		// on the way to it.
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", target, err)
	}
	return conn, nil
}

// dialTCP has the kernel ask an idle peer for a sign of life every second, so
// that a host that is gone is noticed in three.
func dialTCP(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2}}
	return dialer.DialContext(ctx, "tcp", address)
}

// freshTLS makes the TLS configuration anew for every connection, so that a
// renewed certificate and a changed CA file are used without a restart.
type freshTLS struct {
	config func(context.Context) (*tls.Config, error)
}

func (f *freshTLS) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := f.config(ctx)
	if err != nil {
		return nil, nil, err
	}
	if config.ServerName != "" {
		// The name that is verified is the one configured, not the one dialled.
		authority = config.ServerName
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

func (f *freshTLS) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, fmt.Errorf("these credentials are a client's")
}

func (f *freshTLS) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (f *freshTLS) Clone() credentials.TransportCredentials { return &freshTLS{config: f.config} }

// OverrideServerName is part of the interface; the name is in config.
func (f *freshTLS) OverrideServerName(string) error { return nil }
