package provider

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/connrotation"
)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

func (a *authority) sign(t *testing.T, subject pkix.Name, public any) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: subject,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, a.cert, public, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func signingClient(t *testing.T, ca *authority) *fake.Clientset {
	client := fake.NewClientset()
	client.PrependReactor("create", "certificatesigningrequests", func(a k8stesting.Action) (bool, runtime.Object, error) {
		made := a.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		block, _ := pem.Decode(made.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			return true, nil, err
		}
		made.Name = "csr-1"
		der := ca.sign(t, request.Subject, request.PublicKey)
		made.Status.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		return true, made, client.Tracker().Add(made)
	})
	return client
}

func TestNodeCertificateIsObtainedAndKept(t *testing.T) {
	ca := newAuthority(t)
	config := ClusterConfig{NodeName: "sanfran", DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
	open := func(client *fake.Clientset) *nodeCertificate {
		n := newNodeCertificate(client, config)
		n.dialer = connrotation.NewDialer(nil)
		if err := n.open(t.Context(), client); err != nil {
			t.Fatal(err)
		}
		return n
	}
	first := open(signingClient(t, ca)).current.Load()
	if s := first.Leaf.Subject; s.CommonName != "system:node:sanfran" || len(s.Organization) != 1 || s.Organization[0] != "system:nodes" {
		t.Errorf("certificate of %v", s)
	}
	if again := open(fake.NewClientset()).current.Load(); !again.Leaf.Equal(first.Leaf) {
		t.Error("the kept certificate was not taken")
	}
	// A cluster that was made anew does not know it.
	other := signingClient(t, ca)
	other.PrependReactor("get", "nodes", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewUnauthorized("unknown authority")
	})
	if again := open(other).current.Load(); again.Leaf.Equal(first.Leaf) {
		t.Error("a certificate that is refused was kept")
	}
	config.NodeName = "another"
	if n := newNodeCertificate(nil, config); n.kept() != nil {
		t.Error("another node's certificate was taken")
	}
}

func TestNodeCertificateDenied(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("create", "certificatesigningrequests", func(a k8stesting.Action) (bool, runtime.Object, error) {
		made := a.(k8stesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		made.Name = "csr-1"
		made.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Reason: "No", Message: "not you"}}
		return true, made, client.Tracker().Add(made)
	})
	n := newNodeCertificate(client, ClusterConfig{NodeName: "sanfran", Log: slog.New(slog.DiscardHandler)})
	n.dialer = connrotation.NewDialer(nil)
	err := n.open(context.WithoutCancel(t.Context()), client)
	if err == nil || !strings.Contains(err.Error(), "not you") || !strings.Contains(err.Error(), "--kubernetes-identity") {
		t.Errorf("got %v", err)
	}
}
