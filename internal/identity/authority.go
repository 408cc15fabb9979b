package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"
)

const (
	// Lifetime of issued certificates: long enough that an outage of the
	// control plane of the usual kind does not matter, short enough that none
	// need be revoked.
	Lifetime = time.Hour
	// caLifetime of the authority, which is made once in an installation.
	caLifetime = 20 * 365 * 24 * time.Hour
	// backdate tolerates clocks of nodes that are behind the control plane's.
	backdate = 5 * time.Minute
	// maxRequestBytes bounds a certificate request; one of a P-256 key is
	// about 200 bytes.
	maxRequestBytes = 8 << 10
)

// CAStore keeps the authority's certificate and key between starts.
type CAStore interface {
	// LoadOrCreateCA returns the stored pair. When there is none it calls
	// create, stores what that returns, and returns what is stored then, which
	// is another's when two processes create at once.
	LoadOrCreateCA(ctx context.Context, create func() (certPEM, keyPEM []byte, err error)) (certPEM, keyPEM []byte, err error)
}

// ErrRequest says that a certificate request is not acceptable.
var ErrRequest = errors.New("the certificate request is not acceptable")

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pool *x509.CertPool
}

// OpenAuthority loads the authority from store, or makes one there.
func OpenAuthority(ctx context.Context, store CAStore) (*Authority, error) {
	certPEM, keyPEM, err := store.LoadOrCreateCA(ctx, CreateCA)
	if err != nil {
		return nil, fmt.Errorf("load the certificate authority: %w", err)
	}
	return NewAuthority(certPEM, keyPEM)
}

// CreateCA makes a new authority's certificate and key, PEM-encoded.
func CreateCA() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make the authority's key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "SanFran internal CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the authority's key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), nil
}

// NewAuthority reads what CreateCA made. A pair that does not belong together,
// is no authority or has run out is an error that says so.
func NewAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read the authority's certificate and key: %w", err)
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	switch {
	case !ok:
		return nil, fmt.Errorf("the authority's key (%T) cannot sign", pair.PrivateKey)
	case !pair.Leaf.IsCA:
		return nil, fmt.Errorf("the authority's certificate (%v) is not of an authority", pair.Leaf.Subject)
	case time.Now().After(pair.Leaf.NotAfter):
		return nil, fmt.Errorf("the authority's certificate ran out at %v: delete its Secret and restart the control plane to make another", pair.Leaf.NotAfter)
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	return &Authority{cert: pair.Leaf, key: signer, pool: pool}, nil
}

// Pool holds the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool { return a.pool }

// IssueClient signs the public key of a PKCS #10 request (DER) for peer.
// Everything else the request says is ignored. A request that is too large,
// malformed, not signed by its own key or of a key other than ECDSA P-256 is
// refused with ErrRequest.
func (a *Authority) IssueClient(request []byte, peer Peer) (chain [][]byte, notAfter time.Time, err error) {
	if len(request) > maxRequestBytes {
		return nil, time.Time{}, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrRequest, len(request), maxRequestBytes)
	}
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	key, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, time.Time{}, fmt.Errorf("%w: its key is %v, only ECDSA P-256 is taken", ErrRequest, csr.PublicKeyAlgorithm)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: not signed by its own key: %w", ErrRequest, err)
	}
	if err := peer.validate(); err != nil {
		return nil, time.Time{}, err
	}
	template := &x509.Certificate{
		URIs:        []*url.URL{peer.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := a.sign(template, key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("issue a certificate for %v: %w", peer, err)
	}
	return [][]byte{der}, template.NotAfter, nil
}

func (a *Authority) sign(template *x509.Certificate, key crypto.PublicKey) ([]byte, error) {
	now := time.Now()
	template.NotBefore = now.Add(-backdate)
	template.NotAfter = now.Add(Lifetime).Truncate(time.Second)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
}

// Serving returns a tls.Config callback that presents a certificate of the
// control plane for dnsNames, made when first asked for and made anew when two
// thirds of its life are over.
func (a *Authority) Serving(dnsNames ...string) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	var (
		mu      sync.Mutex
		current *tls.Certificate
	)
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		mu.Lock()
		defer mu.Unlock()
		if current != nil && time.Now().Before(renewAt(current.Leaf.NotAfter)) {
			return current, nil
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make the serving key: %w", err)
		}
		der, err := a.sign(&x509.Certificate{
			DNSNames:    dnsNames,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		}, key.Public())
		if err != nil {
			return nil, fmt.Errorf("issue the serving certificate for %v: %w", dnsNames, err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("read back the serving certificate: %w", err)
		}
		current = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
		return current, nil
	}
}

// ServerTLS is the control plane's side of every connection: TLS 1.3, its own
// certificate for dnsNames, and verification of client certificates that are
// presented. Which calls need one is for the RPC layer to decide, because
// IssueCertificate is called without.
func (a *Authority) ServerTLS(dnsNames ...string) *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: a.Serving(dnsNames...),
		ClientAuth:     tls.VerifyClientCertIfGiven,
		ClientCAs:      a.pool,
	}
}

// renewAt is when a certificate that ends at notAfter is to be replaced: a
// third of Lifetime before.
func renewAt(notAfter time.Time) time.Time { return notAfter.Add(-Lifetime / 3) }
