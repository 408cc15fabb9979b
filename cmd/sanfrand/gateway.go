package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"sanfran.dev/internal/process"
	"sanfran.dev/router"
)

// gatewayFlags say where a gateway takes requests, and how.
type gatewayFlags struct {
	listenAddress string
	tlsAddress    string
	tlsCertFile   string
	tlsKeyFile    string
	proxies       []string
	accessLog     bool
	series        int
	connections   int
}

func (f *gatewayFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.listenAddress, "listen-address", ":8080", "host:port to serve functions on")
	flags.StringVar(&f.tlsAddress, "tls-listen-address", "", "host:port to serve functions on by TLS; empty: nowhere")
	flags.StringVar(&f.tlsCertFile, "tls-cert-file", "", "certificate for --tls-listen-address, with its chain (PEM); read again when it changes")
	flags.StringVar(&f.tlsKeyFile, "tls-key-file", "", "its private key (PEM)")
	flags.StringSliceVar(&f.proxies, "trusted-proxies", nil, "IP ranges of proxies in front whose X-Forwarded-* and Forwarded headers are believed; others' are dropped")
	flags.BoolVar(&f.accessLog, "access-log", false, "write a line of JSON to standard output for each request")
	flags.IntVar(&f.connections, "connections", router.DefaultConnections, "most connections of clients at a time; beyond it an idle one is closed, or the new one")
	flags.IntVar(&f.series, "metrics-functions", router.DefaultFunctionSeries, "how many functions have metrics of their own; the others are \"other\" together")
}

// trusted parses --trusted-proxies.
func (f *gatewayFlags) trusted() ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, proxy := range f.proxies {
		prefix, err := netip.ParsePrefix(proxy)
		if err != nil {
			return nil, fmt.Errorf("--trusted-proxies: %w", err)
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes, nil
}

// gatewayListener is one address of a gateway's.
type gatewayListener struct {
	net.Listener
	certificate *router.Certificate // nil: without TLS
}

// listen opens the listeners that the flags name, the one without TLS first.
func (f *gatewayFlags) listen(ctx context.Context, log *slog.Logger) ([]gatewayListener, error) {
	plain, err := listen(ctx, "--listen-address", f.listenAddress)
	if err != nil {
		return nil, err
	}
	listeners := []gatewayListener{{Listener: plain}}
	if f.tlsAddress == "" {
		return listeners, nil
	}
	certificate, err := router.LoadCertificate(f.tlsCertFile, f.tlsKeyFile, log)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("--tls-cert-file, --tls-key-file: %w", err), plain.Close())
	}
	secure, err := listen(ctx, "--tls-listen-address", f.tlsAddress)
	if err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return append(listeners, gatewayListener{secure, certificate}), nil
}

func closeAll(listeners []gatewayListener) error {
	var errs []error
	for _, listener := range listeners {
		errs = append(errs, listener.Close())
	}
	return errors.Join(errs...)
}

// serveGateway returns the part that serves a gateway's clients. When it is told to
// stop it tells each client that asks something to open its next connection
// elsewhere, for as long as linger; then it takes no more requests, and those in
// flight, upgraded connections included, may go on for grace.
func serveGateway(server *router.Server, listeners []gatewayListener, linger, grace time.Duration) process.Part {
	return process.Part{Name: "gateway", Run: func(ctx context.Context) error {
		failed := make(chan error, len(listeners))
		for _, listener := range listeners {
			go func() { failed <- server.Serve(listener.Listener, listener.certificate) }()
		}
		serving := len(listeners)
		var err error
		select {
		case err = <-failed:
			serving--
		case <-ctx.Done():
			server.Drain()
			timer := time.NewTimer(linger)
			select {
			case <-timer.C:
			case err = <-failed:
				serving--
			}
			timer.Stop()
		}
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err = errors.Join(err, server.Shutdown(stopCtx))
		for range serving {
			err = errors.Join(err, <-failed)
		}
		return err
	}}
}
