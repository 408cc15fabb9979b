package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var agent = Peer{Role: RoleAgent, Node: "node-1", PodNamespace: "sanfran", PodName: "agent-x", PodUID: "0b2c"}

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	certPEM, keyPEM, err := CreateCA()
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAuthority(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func request(t *testing.T, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestIssueClientUsesOnlyTheKey(t *testing.T) {
	a := newAuthority(t)
	key := p256(t)
	hostile := request(t, key, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "system:masters"},
		DNSNames: []string{"control-plane"},
		URIs:     []*url.URL{{Scheme: "sanfran", Host: "gateway", Path: "/node/other/pod/a/b/c"}},
	})
	chain, notAfter, err := a.IssueClient(hostile, agent)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(chain[0])
	if err != nil {
		t.Fatal(err)
	}
	if len(cert.DNSNames) != 0 || cert.Subject.CommonName != "" || !key.PublicKey.Equal(cert.PublicKey) {
		t.Errorf("the certificate took more than the key: %v %v", cert.DNSNames, cert.Subject)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("a client's certificate serves")
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: a.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("verify: %v", err)
	}
	if got, err := ParsePeer(cert); err != nil || got != agent {
		t.Errorf("got %v, %v, want %v", got, err, agent)
	}
	if d := time.Until(notAfter); d > Lifetime || d < Lifetime-time.Minute {
		t.Errorf("lives for %v", d)
	}
}

func TestIssueClientRefuses(t *testing.T) {
	a := newAuthority(t)
	good := request(t, p256(t), &x509.CertificateRequest{})
	tampered := bytes.Clone(good)
	tampered[len(tampered)-1] ^= 1
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, der := range map[string][]byte{
		"empty":     nil,
		"garbage":   []byte("garbage"),
		"truncated": good[:len(good)/2],
		"tampered":  tampered,
		"too large": request(t, p256(t), &x509.CertificateRequest{DNSNames: strings.Split(strings.Repeat("abcdefgh.example,", 1000), ",")[:1000]}),
		"P-384":     request(t, p384, &x509.CertificateRequest{}),
		"Ed25519":   request(t, ed, &x509.CertificateRequest{}),
	} {
		if _, _, err := a.IssueClient(der, agent); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: got %v, want ErrRequest", name, err)
		}
	}
	for _, peer := range []Peer{{}, {Role: "admin", Node: "n", PodNamespace: "a", PodName: "b", PodUID: "c"}, {Role: RoleAgent, Node: "n/pod/x", PodNamespace: "a", PodName: "b", PodUID: "c"}} {
		if _, _, err := a.IssueClient(good, peer); !errors.Is(err, ErrNoPeer) {
			t.Errorf("%v: got %v, want ErrNoPeer", peer, err)
		}
	}
}

func TestParsePeerRefuses(t *testing.T) {
	for _, name := range []string{
		"https://agent/node/n/pod/a/b/c", "sanfran://agent/node/n/pod/a/b", "sanfran://admin/node/n/pod/a/b/c",
		"sanfran://agent/node//pod/a/b/c", "sanfran://agent/host/n/pod/a/b/c", "sanfran://agent/node/n/pod/a/b/c/d", "sanfran://agent",
	} {
		uri, err := url.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := ParsePeer(&x509.Certificate{URIs: []*url.URL{uri}}); !errors.Is(err, ErrNoPeer) {
			t.Errorf("%s: got %v, %v, want ErrNoPeer", name, p, err)
		}
	}
	if _, err := ParsePeer(&x509.Certificate{URIs: []*url.URL{agent.URI(), agent.URI()}}); !errors.Is(err, ErrNoPeer) {
		t.Errorf("two names: got %v, want ErrNoPeer", err)
	}
}

func TestNewAuthorityRefusesForeignKey(t *testing.T) {
	certPEM, _, err := CreateCA()
	if err != nil {
		t.Fatal(err)
	}
	_, keyPEM, err := CreateCA()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewAuthority(certPEM, keyPEM); err == nil {
		t.Error("accepted a certificate with another's key")
	}
}

type memoryStore struct{ cert, key []byte }

func (m *memoryStore) LoadOrCreateCA(_ context.Context, create func() ([]byte, []byte, error)) ([]byte, []byte, error) {
	if m.cert == nil {
		var err error
		if m.cert, m.key, err = create(); err != nil {
			return nil, nil, err
		}
	}
	return m.cert, m.key, nil
}

func TestOpenAuthorityMakesOne(t *testing.T) {
	var store memoryStore
	first, err := OpenAuthority(t.Context(), &store)
	if err != nil {
		t.Fatal(err)
	}
	second, err := OpenAuthority(t.Context(), &store)
	if err != nil {
		t.Fatal(err)
	}
	if !first.cert.Equal(second.cert) {
		t.Error("the second start made another authority")
	}
}

func TestServingRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		serving := newAuthority(t).Serving("control-plane")
		first, err := serving(nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(Lifetime / 2)
		if again, _ := serving(nil); again != first {
			t.Error("renewed after half of its life")
		}
		time.Sleep(Lifetime/6 + time.Second)
		if again, _ := serving(nil); again == first {
			t.Error("not renewed after two thirds of its life")
		}
	})
}

// TestClientRenews plays three hours: the issuer is away at first, in the
// middle, and answers nonsense once; there is always a valid certificate after
// the first.
func TestClientRenews(t *testing.T) {
	dir := t.TempDir()
	tokenFile := filepath.Join(dir, "token")
	synctest.Test(t, func(t *testing.T) {
		a := newAuthority(t)
		ctx, cancel := context.WithCancel(t.Context())
		c := NewClient(tokenFile, filepath.Join(dir, "ca.crt"), slog.New(slog.DiscardHandler))
		var tokens []string
		calls := 0
		done := make(chan error, 1)
		go func() {
			done <- c.Run(ctx, func(_ context.Context, token string, request []byte) ([][]byte, error) {
				calls++
				tokens = append(tokens, token)
				switch calls {
				case 1, 4, 5:
					return nil, errors.New("away")
				case 6:
					return [][]byte{[]byte("nonsense")}, nil
				}
				chain, _, err := a.IssueClient(request, agent)
				return chain, err
			})
		}()
		synctest.Wait()
		if err := c.Check(ctx); !errors.Is(err, ErrNoCertificate) {
			t.Errorf("before the first: %v", err)
		}
		if err := os.WriteFile(tokenFile, []byte("first\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.WaitReady(ctx); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tokenFile, []byte("second\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 * 60 {
			time.Sleep(time.Minute)
			if err := c.Check(ctx); err != nil {
				t.Fatalf("after %d calls: %v", calls, err)
			}
		}
		if calls < 7 || calls > 10 {
			t.Errorf("%d calls in three hours", calls)
		}
		if tokens[0] != "first" || tokens[len(tokens)-1] != "second" {
			t.Errorf("tokens used: %q", tokens)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		time.Sleep(Lifetime)
		if err := c.Check(ctx); !errors.Is(err, ErrNoCertificate) {
			t.Errorf("after its end: %v", err)
		}
	})
}

func TestTLSNamesTheMissingFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.crt")
	config := NewClient("", file, slog.New(slog.DiscardHandler)).TLS("x", false)
	if _, err := config(t.Context()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("missing: %v", err)
	}
	if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := config(t.Context()); err == nil || !strings.Contains(err.Error(), "no PEM certificate") {
		t.Errorf("nonsense: %v", err)
	}
}
