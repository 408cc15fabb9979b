package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// certificateLife is long enough that no cluster outlives it; a certificate
// that is within renewBefore of its end is made anew by `up`.
const (
	certificateLife = 5 * 365 * 24 * time.Hour
	renewBefore     = 30 * 24 * time.Hour
)

// authority is a certificate authority of the cluster.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// identity is what a certificate says about its owner.
type identity struct {
	name   string // common name: the user, for Kubernetes
	groups []string
	dns    []string
	ips    []netip.Addr
	server bool
}

// openAuthority reads the authority kept in dir under name, or makes it.
func openAuthority(dir, name string, now time.Time) (*authority, error) {
	certificate, key, raw, err := readPair(dir, name)
	if err == nil && now.Add(renewBefore).Before(certificate.NotAfter) {
		return &authority{certificate, key, raw}, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(certificateLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	raw, err = sign(template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	if err := writePair(dir, name, raw, key); err != nil {
		return nil, err
	}
	certificate, key, raw, err = readPair(dir, name)
	return &authority{certificate, key, raw}, err
}

// issue makes sure that dir holds a certificate of a for who, under name.
func (a *authority) issue(dir, name string, who identity, now time.Time) error {
	have, _, _, err := readPair(dir, name)
	if err == nil && a.stillGood(have, who, now) {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: who.name, Organization: who.groups},
		NotBefore:   now.Add(-time.Hour),
		NotAfter:    now.Add(certificateLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:    who.dns,
	}
	if who.server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	for _, ip := range who.ips {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	raw, err := sign(template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return fmt.Errorf("certificate of %s: %w", who.name, err)
	}
	return writePair(dir, name, raw, key)
}

// stillGood tells whether a certificate says what it should and will for a
// while, so that it need not be made again.
func (a *authority) stillGood(have *x509.Certificate, who identity, now time.Time) bool {
	if have.CheckSignatureFrom(a.certificate) != nil || now.Add(renewBefore).After(have.NotAfter) ||
		have.Subject.CommonName != who.name || !slices.Equal(have.Subject.Organization, who.groups) ||
		!slices.Equal(have.DNSNames, who.dns) || len(have.IPAddresses) != len(who.ips) {
		return false
	}
	for i, ip := range who.ips {
		if !have.IPAddresses[i].Equal(net.IP(ip.AsSlice())) {
			return false
		}
	}
	return true
}

func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func writePair(dir, name string, certificate []byte, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	// The key first: a certificate without its key looks complete.
	encoded := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := writeFile(filepath.Join(dir, name+".key"), encoded, 0o600); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, name+".crt"), certificate, 0o644)
}

// readPair fails with fs.ErrNotExist when a file is missing, cut short or does
// not fit the other, because then the pair is to be made again.
func readPair(dir, name string) (*x509.Certificate, *ecdsa.PrivateKey, []byte, error) {
	raw, err := os.ReadFile(filepath.Join(dir, name+".crt"))
	if err != nil {
		return nil, nil, nil, err
	}
	rawKey, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, nil, nil, err
	}
	broken := fmt.Errorf("%s in %s is broken: %w", name, dir, fs.ErrNotExist)
	block, _ := pem.Decode(raw)
	keyBlock, _ := pem.Decode(bytes.TrimSpace(rawKey))
	if block == nil || keyBlock == nil {
		return nil, nil, nil, broken
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, nil, broken
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil || !key.PublicKey.Equal(certificate.PublicKey) {
		return nil, nil, nil, broken
	}
	return certificate, key, raw, nil
}
