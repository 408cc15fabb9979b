package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
)

// inNetwork runs do on a thread that is in the network of a node. What do
// starts with another goroutine is not in it; sockets that it opens are.
func inNetwork(p process, do func() error) error {
	failed := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and no other
		// goroutine ever runs in the wrong network.
		runtime.LockOSThread()
		namespace, err := netns.GetFromPid(p.PID)
		if err != nil {
			failed <- err
			return
		}
		defer namespace.Close()
		if err := netns.Set(namespace); err != nil {
			failed <- err
			return
		}
		failed <- do()
	}()
	return <-failed
}

// getInside asks an HTTPS server in the network of a node and fails unless it
// answers 200.
func getInside(ctx context.Context, p process, pair tls.Certificate, authorityFile, url string) error {
	authority, err := os.ReadFile(authorityFile)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
		DialContext: func(ctx context.Context, network, address string) (connection net.Conn, err error) {
			// An address of digits: no lookup, so the dial stays on its thread.
			failed := inNetwork(p, func() error {
				connection, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, address)
				return err
			})
			return connection, failed
		},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
