package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// issueIdentities makes what is missing of the cluster's authorities, keys,
// certificates and kubeconfigs.
func (c *cluster) issueIdentities(now time.Time) error {
	dir := c.path("pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	authorities := map[string]*authority{}
	for _, name := range []string{"ca", "front-proxy-ca", "etcd-ca"} {
		a, err := openAuthority(dir, name, now)
		if err != nil {
			return fmt.Errorf("certificate authority %s: %w", name, err)
		}
		authorities[name] = a
	}
	loopback := netip.MustParseAddr("127.0.0.1")
	server := identity{
		name: "kube-apiserver", server: true,
		dns: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain, "localhost", c.node(1).name()},
		ips: []netip.Addr{loopback, netip.MustParseAddr(apiService4), c.node(1).address4()},
	}
	if c.DualStack {
		server.ips = append(server.ips, netip.MustParseAddr(apiService6), c.node(1).address6())
	}
	masters := []string{"system:masters"}
	for _, issue := range []struct {
		authority, file string
		who             identity
	}{
		{"ca", "apiserver", server},
		{"ca", "apiserver-kubelet-client", identity{name: "kube-apiserver-kubelet-client", groups: masters}},
		{"etcd-ca", "etcd", identity{name: "etcd", server: true, dns: []string{"localhost"}, ips: []netip.Addr{loopback}}},
		{"etcd-ca", "etcd-client", identity{name: "kube-apiserver-etcd-client"}},
		{"front-proxy-ca", "front-proxy-client", identity{name: "front-proxy-client"}},
		{"ca", "admin", identity{name: "sanfran:admin", groups: masters}},
		{"ca", "controller-manager", identity{name: "system:kube-controller-manager"}},
		{"ca", "scheduler", identity{name: "system:kube-scheduler"}},
		{"ca", "proxy", identity{name: "system:kube-proxy"}},
		{"ca", "provisioner", identity{name: "sanfran:local-provisioner"}},
	} {
		if err := authorities[issue.authority].issue(dir, issue.file, issue.who, now); err != nil {
			return err
		}
	}
	if err := serviceAccountKey(dir); err != nil {
		return err
	}
	for _, n := range c.nodes() {
		client := identity{name: "system:node:" + n.name(), groups: []string{"system:nodes"}}
		if err := authorities["ca"].issue(n.path("pki"), "kubelet-client", client, now); err != nil {
			return err
		}
		serving := identity{name: "system:node:" + n.name(), groups: []string{"system:nodes"}, server: true, dns: []string{n.name()}, ips: []netip.Addr{n.address4()}}
		if c.DualStack {
			serving.ips = append(serving.ips, n.address6())
		}
		if err := authorities["ca"].issue(n.path("pki"), "kubelet-serving", serving, now); err != nil {
			return err
		}
		if err := c.writeKubeconfig(n.path("kubelet.kubeconfig"), n.path("pki"), "kubelet-client"); err != nil {
			return err
		}
	}
	for file, certificate := range map[string]string{
		"admin.kubeconfig":              "admin",
		"controller-manager.kubeconfig": "controller-manager",
		"scheduler.kubeconfig":          "scheduler",
		"proxy.kubeconfig":              "proxy",
		"provisioner.kubeconfig":        "provisioner",
	} {
		if err := c.writeKubeconfig(c.path(file), dir, certificate); err != nil {
			return err
		}
	}
	return nil
}

// serviceAccountKey makes sure that dir holds the key pair that signs and
// proves service-account tokens.
func serviceAccountKey(dir string) error {
	private, public := filepath.Join(dir, "sa.key"), filepath.Join(dir, "sa.pub")
	if raw, err := os.ReadFile(private); err == nil {
		if block, _ := pem.Decode(raw); block != nil {
			if _, err := os.Stat(public); err == nil {
				return nil
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	derPublic, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writeFile(private, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	return writeFile(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: derPublic}), 0o644)
}

// writeKubeconfig writes a kubeconfig that holds all it needs, readable for
// its owner only.
func (c *cluster) writeKubeconfig(path, dir, certificate string) error {
	var parts [3]string
	for i, file := range []string{c.path("pki", "ca.crt"), filepath.Join(dir, certificate+".crt"), filepath.Join(dir, certificate+".key")} {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parts[i] = base64.StdEncoding.EncodeToString(raw)
	}
	return writeFile(path, []byte(kubeconfig(c.Name, c.apiServer(), parts[0], parts[1], parts[2])), 0o600)
}

// kubeconfig renders a kubeconfig of one cluster, one user and one context;
// certificates and key are base64 of PEM.
func kubeconfig(name, server, authority, certificate, key string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
clusters:
- name: %[1]s
  cluster:
    server: %[2]s
    certificate-authority-data: %[3]s
users:
- name: %[1]s
  user:
    client-certificate-data: %[4]s
    client-key-data: %[5]s
contexts:
- name: %[1]s
  context:
    cluster: %[1]s
    user: %[1]s
current-context: %[1]s
`, name, server, authority, certificate, key)
}
