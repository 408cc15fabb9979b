package main

import (
	"crypto/x509"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestCertificatesAreMadeOnceAndAnewWhenNeeded(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ca, err := openAuthority(dir, "ca", now)
	if err != nil {
		t.Fatal(err)
	}
	who := identity{name: "system:node:demo-node-1", groups: []string{"system:nodes"}, server: true, dns: []string{"demo-node-1"}, ips: []netip.Addr{netip.MustParseAddr("172.29.7.11")}}
	issue := func(ca *authority, who identity, now time.Time) *x509.Certificate {
		t.Helper()
		if err := ca.issue(dir, "kubelet", who, now); err != nil {
			t.Fatal(err)
		}
		certificate, _, _, err := readPair(dir, "kubelet")
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	first := issue(ca, who, now)
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	if _, err := first.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, DNSName: "172.29.7.11"}); err != nil {
		t.Error(err)
	}
	again, err := openAuthority(dir, "ca", now)
	if err != nil || !again.certificate.Equal(ca.certificate) {
		t.Errorf("the authority was made anew (%v)", err)
	}
	if second := issue(again, who, now.Add(time.Hour)); !second.Equal(first) {
		t.Error("a good certificate was made anew")
	}
	moved := who
	moved.ips = []netip.Addr{netip.MustParseAddr("172.29.8.11")}
	if other := issue(ca, moved, now); other.Equal(first) {
		t.Error("a certificate with an old address was kept")
	}
	before := issue(ca, moved, now)
	if late := issue(ca, moved, now.Add(certificateLife-time.Hour)); late.Equal(before) {
		t.Error("a certificate that ends soon was kept")
	}
	if err := os.Truncate(filepath.Join(dir, "kubelet.key"), 10); err != nil {
		t.Fatal(err)
	}
	issue(ca, moved, now) // fails the test unless the pair is whole again
	if info, err := os.Stat(filepath.Join(dir, "kubelet.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a key: %v (%v)", info.Mode(), err)
	}
}
