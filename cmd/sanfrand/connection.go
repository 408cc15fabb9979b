package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"sanfran.dev/internal/identity"
	"sanfran.dev/internal/process"
	"sanfran.dev/internal/rpc"
)

// connectionFlags say how an agent or a gateway reaches the control plane and
// proves who it is.
type connectionFlags struct {
	address   string
	name      string
	tokenFile string
	caFile    string
}

func (f *connectionFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.address, "control-plane", "", "host:port of the control plane (required)")
	flags.StringVar(&f.name, "control-plane-name", "", "DNS name its certificate must bear (default: the host of --control-plane)")
	flags.StringVar(&f.tokenFile, "token-file", "/var/run/secrets/sanfran/token",
		"ServiceAccount token of audience sanfran, bound to a pod; read again for every certificate")
	flags.StringVar(&f.caFile, "ca-file", "/var/run/secrets/sanfran/ca.crt",
		"certificate of SanFran's authority, PEM; read again for every connection and may appear later")
	must(cmd.MarkFlagRequired("control-plane"))
}

// connection is a process's way to the control plane.
type connection struct {
	// Conn presents the process's certificate. Calls wait for the first one.
	Conn *grpc.ClientConn
	// Identity keeps the certificate fresh while it runs.
	Identity process.Part
	bare     *grpc.ClientConn
}

// host is the name that the control plane's certificate must bear.
func (f *connectionFlags) host() (string, error) {
	host, _, err := net.SplitHostPort(f.address)
	if err != nil {
		return "", fmt.Errorf("--control-plane: %w; give host:port", err)
	}
	if f.name != "" {
		host = f.name
	}
	return host, nil
}

func (f *connectionFlags) open(log *slog.Logger) (*connection, error) {
	host, err := f.host()
	if err != nil {
		return nil, err
	}
	client := identity.NewClient(f.tokenFile, f.caFile, log.With("component", "identity"))
	bare, err := rpc.Dial(f.address, client.TLS(host, false))
	if err != nil {
		return nil, err
	}
	conn, err := rpc.Dial(f.address, client.TLS(host, true))
	if err != nil {
		return nil, errors.Join(err, bare.Close())
	}
	return &connection{
		Conn: conn,
		bare: bare,
		Identity: process.Part{Name: "identity", Run: func(ctx context.Context) error {
			return client.Run(ctx, identity.IssuerOver(bare))
		}},
	}, nil
}

func (c *connection) close() error { return errors.Join(c.Conn.Close(), c.bare.Close()) }

// must is for errors that only a mistake in this program makes, at its start.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
