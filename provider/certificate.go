package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
)

const (
	// signingTimeout is how long one request is waited for. The controller
	// manager signs in well under a second.
	signingTimeout = 30 * time.Second
	signingPoll    = 200 * time.Millisecond
	renewRetry     = 30 * time.Second
)

// nodeCertificate is the provider's client certificate as system:node:<name>.
type nodeCertificate struct {
	account kubernetes.Interface
	config  ClusterConfig
	current atomic.Pointer[tls.Certificate]
	dialer  *connrotation.Dialer
}

func newNodeCertificate(account kubernetes.Interface, config ClusterConfig) *nodeCertificate {
	if config.Signer == "" {
		config.Signer = certificatesv1.KubeAPIServerClientKubeletSignerName
	}
	return &nodeCertificate{account: account, config: config}
}

// restConfig is base with this certificate as the only identity.
func (n *nodeCertificate) restConfig(base *rest.Config) (*rest.Config, error) {
	own := rest.AnonymousClientConfig(base)
	transport, dialer, err := rotatingTransport(own, n)
	if err != nil {
		return nil, err
	}
	n.dialer = dialer
	own.TLSClientConfig = rest.TLSClientConfig{}
	own.Transport = transport
	own.QPS, own.Burst, own.UserAgent = base.QPS, base.Burst, base.UserAgent
	return own, nil
}

// present implements tls.Config.GetClientCertificate.
func (n *nodeCertificate) present(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if cert := n.current.Load(); cert != nil {
		return cert, nil
	}
	return &tls.Certificate{}, nil
}

// open takes the kept certificate when Kubernetes still accepts it, or obtains
// one. The client is one that presents it.
func (n *nodeCertificate) open(ctx context.Context, client kubernetes.Interface) error {
	if kept := n.kept(); kept != nil {
		n.current.Store(kept)
		// A node may read itself whether or not it is there yet.
		_, err := client.CoreV1().Nodes().Get(ctx, n.config.NodeName, metav1.GetOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("try the kept certificate of %s: %w", n.user(), err)
		}
		n.config.Log.Warn("Kubernetes does not accept the kept node certificate; asking for another", "user", n.user())
		n.dialer.CloseAll()
	}
	return n.renew(ctx)
}

// run renews the certificate when four fifths of its life are over, until ctx
// ends.
func (n *nodeCertificate) run(ctx context.Context) error {
	for {
		leaf := n.current.Load().Leaf
		life := leaf.NotAfter.Sub(leaf.NotBefore)
		if !sleep(ctx, time.Until(leaf.NotBefore.Add(life*4/5))) {
			return nil
		}
		for {
			err := n.renew(ctx)
			if err == nil {
				break
			}
			n.config.Log.Error("the node's certificate is not renewed", "notAfter", leaf.NotAfter, "error", err)
			if !sleep(ctx, renewRetry) {
				return nil
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (n *nodeCertificate) user() string { return "system:node:" + n.config.NodeName }

// renew has a new key signed, keeps it and ends connections of the former one.
func (n *nodeCertificate) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make the node's key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: n.user(), Organization: []string{"system:nodes"}},
	}, key)
	if err != nil {
		return fmt.Errorf("make the node's certificate request: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode the node's key: %w", err)
	}
	chain, err := n.sign(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if err != nil {
		return fmt.Errorf("obtain a certificate for %s: %w; where the cluster does not sign such requests use --kubernetes-identity=%s", n.user(), err, IdentityServiceAccount)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	cert, err := tls.X509KeyPair(chain, keyPEM)
	if err != nil {
		return fmt.Errorf("read the certificate that Kubernetes signed: %w", err)
	}
	if err := n.keep(append(chain, keyPEM...)); err != nil {
		n.config.Log.Warn("the node's certificate is kept in memory only", "error", err)
	}
	n.current.Store(&cert)
	n.dialer.CloseAll()
	n.config.Log.Info("node certificate obtained", "user", n.user(), "notAfter", cert.Leaf.NotAfter)
	return nil
}

// sign makes a CertificateSigningRequest and waits for its certificate (PEM).
func (n *nodeCertificate) sign(ctx context.Context, request []byte) ([]byte, error) {
	requests := n.account.CertificatesV1().CertificateSigningRequests()
	made, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "sanfran-node-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    request,
			SignerName: n.config.Signer,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	var chain []byte
	err = wait.PollUntilContextTimeout(ctx, signingPoll, signingTimeout, false, func(ctx context.Context) (bool, error) {
		csr, err := requests.Get(ctx, made.Name, metav1.GetOptions{})
		if err != nil {
			return false, fmt.Errorf("read request %s: %w", made.Name, err)
		}
		for _, c := range csr.Status.Conditions {
			if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
				return false, fmt.Errorf("request %s: %s: %s: %s", made.Name, c.Type, c.Reason, c.Message)
			}
		}
		chain = csr.Status.Certificate
		return len(chain) > 0, nil
	})
	if wait.Interrupted(err) && ctx.Err() == nil {
		return nil, fmt.Errorf("request %s was not signed within %v: is the ServiceAccount allowed certificatesigningrequests/nodeclient? (kubectl describe csr %s)", made.Name, signingTimeout, made.Name)
	}
	return chain, err
}

func (n *nodeCertificate) file() string { return filepath.Join(n.config.DataDir, "node-client.pem") }

// keep writes certificate and key to the data folder, all or nothing.
func (n *nodeCertificate) keep(pair []byte) error {
	if n.config.DataDir == "" {
		return nil
	}
	fresh := n.file() + ".new"
	if err := os.WriteFile(fresh, pair, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, n.file())
}

// kept is the certificate of the data folder, or nil when there is none that is
// this node's and still valid.
func (n *nodeCertificate) kept() *tls.Certificate {
	if n.config.DataDir == "" {
		return nil
	}
	pair, err := os.ReadFile(n.file())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	cert, err := tls.X509KeyPair(pair, pair)
	switch {
	case err != nil:
		n.config.Log.Warn("the kept node certificate is not readable; asking for another", "file", n.file(), "error", err)
		return nil
	case cert.Leaf.Subject.CommonName != n.user(), time.Now().After(cert.Leaf.NotAfter):
		return nil
	}
	return &cert
}
