package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node/api"
	corev1 "k8s.io/api/core/v1"
)

const (
	// servingLife of the self-signed certificate, which is made at each start.
	servingLife = 365 * 24 * time.Hour
)

// kubeletAPI is what is served of the API that the API server and metrics-server
// call on a node.
type kubeletAPI struct {
	pods     func() []*corev1.Pod
	logs     *logHandler
	programs *programHandler
	usage    *usageReader
}

func (k kubeletAPI) handler() http.Handler {
	list := func(context.Context) ([]*corev1.Pod, error) { return k.pods(), nil }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	mux.Handle("GET /containerLogs/{namespace}/{pod}/{container}", k.logs)
	k.programs.register(mux)
	summary := api.HandlePodStatsSummary(k.usage.summary)
	mux.HandleFunc("GET /stats/summary", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		summary(w, r)
	})
	mux.Handle("GET /metrics/resource", api.HandlePodMetricsResource(k.usage.resourceMetrics))
	mux.Handle("/", api.PodHandler(api.PodHandlerConfig{GetPods: list, GetPodsFromKubernetes: list}, false))
	return mux
}

// serveKubelet serves the kubelet API until ctx ends. Certificate is what it
// presents, nil for a self-signed one for address. It owns the listener.
func serveKubelet(ctx context.Context, listener net.Listener, handler http.Handler, address netip.Addr, name string, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) error {
	if certificate == nil {
		own, err := selfSigned(address, name)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own, nil }
	}
	server := &http.Server{
		Handler: handler,
		// Streams live on when their connection was taken over, but not longer.
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		TLSConfig: &tls.Config{
			MinVersion:     tls.VersionTLS12,
			GetCertificate: certificate,
			// Verified by kubeletAccess, with the cluster's CA of that moment.
			ClientAuth: tls.RequestClientCert,
			// Streams upgrade the connection, which HTTP/2 cannot.
			NextProtos: []string{"http/1.1"},
		},
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		// Streams may last for hours; they are cut.
		_ = server.Close()
	})
	err := server.ServeTLS(listener, "", "")
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the kubelet API: %w", err)
}

// selfSigned is what a kubelet presents when nothing signs for it. The API
// server accepts it unless it was started with --kubelet-certificate-authority.
func selfSigned(address netip.Addr, name string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the kubelet API's key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "system:node:" + name},
		NotBefore:    time.Now().Add(-5 * time.Minute),
		NotAfter:     time.Now().Add(servingLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{strings.ToLower(name)},
		IPAddresses:  []net.IP{address.AsSlice()},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the kubelet API's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
