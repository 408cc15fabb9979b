package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	identityv1 "sanfran.dev/proto/sanfran/identity/v1"
)

const (
	// renewRetry is the pause after an attempt that failed. Before the first
	// certificate nothing works, so it is short; it doubles up to
	// maxRenewRetry.
	renewRetry    = 500 * time.Millisecond
	maxRenewRetry = 15 * time.Second
	// issueTimeout bounds one attempt.
	issueTimeout = 10 * time.Second
)

// Issuer trades a token and a certificate request for a certificate chain.
type Issuer func(ctx context.Context, token string, request []byte) (chain [][]byte, err error)

// IssuerOver asks the IdentityService at the other end of conn.
func IssuerOver(conn grpc.ClientConnInterface) Issuer {
	client := identityv1.NewIdentityServiceClient(conn)
	return func(ctx context.Context, token string, request []byte) ([][]byte, error) {
		resp, err := client.IssueCertificate(ctx, &identityv1.IssueCertificateRequest{Token: token, CertificateRequest: request})
		return resp.GetCertificateChain(), err
	}
}

// Client holds the certificate of one process and keeps it fresh while Run
// runs. It is safe for concurrent use.
type Client struct {
	tokenFile string
	caFile    string
	log       *slog.Logger
	current   atomic.Pointer[tls.Certificate]
	ready     chan struct{} // closed with the first certificate
}

// NewClient returns a Client without a certificate yet. tokenFile is the
// projected ServiceAccount token, read anew for every certificate because the
// kubelet replaces it. caFile is the authority's certificate, read anew for
// every connection; it need not exist yet.
func NewClient(tokenFile, caFile string, log *slog.Logger) *Client {
	return &Client{tokenFile: tokenFile, caFile: caFile, log: log, ready: make(chan struct{})}
}

// ErrNoCertificate says that no certificate has been issued to this process
// yet, or that the last one has run out.
var ErrNoCertificate = errors.New("this process has no valid certificate yet")

// WaitReady returns once there is a certificate, or with ctx's error.
func (c *Client) WaitReady(ctx context.Context) error {
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNoCertificate, context.Cause(ctx))
	}
}

// Check returns nil while there is a valid certificate.
func (c *Client) Check(context.Context) error {
	_, err := c.certificate()
	return err
}

// TLS returns what a connection to the control plane begins with: TLS 1.3, the
// authorities in the CA file as it is now, the name its certificate must bear
// and, when presentCertificate is set, this process's certificate, the first of
// which is waited for.
func (c *Client) TLS(serverName string, presentCertificate bool) func(context.Context) (*tls.Config, error) {
	return func(ctx context.Context) (*tls.Config, error) {
		if presentCertificate {
			if err := c.WaitReady(ctx); err != nil {
				return nil, err
			}
		}
		data, err := os.ReadFile(c.caFile)
		if err != nil {
			return nil, fmt.Errorf("read the CA file (it appears once the control plane has started): %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("the CA file %s holds no PEM certificate", c.caFile)
		}
		config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: serverName}
		if presentCertificate {
			if _, err := c.certificate(); err != nil {
				return nil, err
			}
			config.GetClientCertificate = c.GetClientCertificate
		}
		return config, nil
	}
}

// GetClientCertificate is the callback of that name in tls.Config.
func (c *Client) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return c.certificate()
}

func (c *Client) certificate() (*tls.Certificate, error) {
	cert := c.current.Load()
	if cert == nil {
		return nil, ErrNoCertificate
	}
	if time.Now().After(cert.Leaf.NotAfter) {
		return nil, fmt.Errorf("%w: the last one ran out at %v", ErrNoCertificate, cert.Leaf.NotAfter)
	}
	return cert, nil
}

// Run asks issue for certificates until ctx ends: the first at once, the next
// when two thirds of the current one's life are over, with a growing pause
// after failures. It returns nil.
func (c *Client) Run(ctx context.Context, issue Issuer) error {
	retry := renewRetry
	for {
		wait := retry
		cert, err := c.renew(ctx, issue)
		switch {
		case err == nil:
			first := c.current.Swap(cert) == nil
			if first {
				close(c.ready)
			}
			c.log.Info("certificate received", "name", cert.Leaf.URIs[0].String(), "notAfter", cert.Leaf.NotAfter)
			wait, retry = time.Until(renewAt(cert.Leaf.NotAfter)), renewRetry
		case ctx.Err() != nil:
			return nil
		default:
			c.log.Warn("no certificate received, trying again", "error", err, "in", wait)
			retry = min(2*retry, maxRenewRetry)
		}
		timer := time.NewTimer(max(wait, renewRetry))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

func (c *Client) renew(ctx context.Context, issue Issuer) (*tls.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	token, err := os.ReadFile(c.tokenFile)
	if err != nil {
		return nil, fmt.Errorf("read the ServiceAccount token: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	chain, err := issue(ctx, strings.TrimSpace(string(token)), request)
	if err != nil {
		return nil, fmt.Errorf("ask the control plane for a certificate: %w", err)
	}
	if len(chain) == 0 {
		return nil, errors.New("the control plane sent an empty certificate chain")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("read the certificate the control plane sent: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the control plane sent a certificate of another key")
	}
	if _, err := ParsePeer(leaf); err != nil {
		return nil, fmt.Errorf("the control plane sent a certificate of no use: %w", err)
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}
