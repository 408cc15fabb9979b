package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
)

// digest is a short name for texts, for unit.Config.
func digest(texts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(texts, "\x00")))
	return hex.EncodeToString(sum[:])[:16]
}

// digestFiles is digest of the contents of files.
func digestFiles(paths ...string) string {
	texts := make([]string, len(paths))
	for i, path := range paths {
		raw, _ := os.ReadFile(path)
		texts[i] = string(raw)
	}
	return digest(texts...)
}

// etcdUnit keeps the cluster's state. It does not wait for the disk: what such
// a cluster holds need not survive the machine losing power.
func (c *cluster) etcdUnit(bin binaries) unit {
	pki := func(name string) string { return c.path("pki", name) }
	const client, peer = "https://127.0.0.1:2379", "https://127.0.0.1:2380"
	return unit{
		Name: "etcd",
		Command: []string{
			bin["etcd"], "--name=" + c.node(1).name(), "--data-dir=" + c.path("etcd"),
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
			"--initial-cluster=" + c.node(1).name() + "=" + peer,
			"--client-cert-auth", "--trusted-ca-file=" + pki("etcd-ca.crt"), "--cert-file=" + pki("etcd.crt"), "--key-file=" + pki("etcd.key"),
			"--peer-client-cert-auth", "--peer-trusted-ca-file=" + pki("etcd-ca.crt"), "--peer-cert-file=" + pki("etcd.crt"), "--peer-key-file=" + pki("etcd.key"),
			"--unsafe-no-fsync", "--snapshot-count=10000", "--auto-compaction-retention=1h", "--quota-backend-bytes=2147483648", "--log-level=warn",
		},
		Environment: []string{"PATH=" + systemPath},
		Config:      digestFiles(pki("etcd-ca.crt"), pki("etcd.crt")),
	}
}

func (c *cluster) apiServerUnit(bin binaries) unit {
	pki := func(name string) string { return c.path("pki", name) }
	return unit{
		Name: "kube-apiserver",
		Command: []string{
			bin["kube-apiserver"],
			"--advertise-address=" + c.node(1).address4().String(), "--bind-address=0.0.0.0", "--secure-port=6443",
			"--allow-privileged", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--client-ca-file=" + pki("ca.crt"), "--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"),
			"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + pki("etcd-ca.crt"), "--etcd-certfile=" + pki("etcd-client.crt"), "--etcd-keyfile=" + pki("etcd-client.key"),
			"--kubelet-client-certificate=" + pki("apiserver-kubelet-client.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy-client",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group", "--requestheader-username-headers=X-Remote-User",
			"--proxy-client-cert-file=" + pki("front-proxy-client.crt"), "--proxy-client-key-file=" + pki("front-proxy-client.key"),
			"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain, "--service-account-key-file=" + pki("sa.pub"), "--service-account-signing-key-file=" + pki("sa.key"),
			"--service-cluster-ip-range=" + c.serviceCIDRs(), "--service-node-port-range=30000-32767",
			"--profiling=false",
		},
		Environment: []string{"PATH=" + systemPath},
		Config:      digestFiles(pki("ca.crt"), pki("apiserver.crt"), pki("etcd-ca.crt"), pki("front-proxy-ca.crt"), pki("sa.pub")),
	}
}

func (c *cluster) controllerUnits(bin binaries) []unit {
	pki := func(name string) string { return c.path("pki", name) }
	environment := []string{"PATH=" + systemPath}
	access := func(name string) []string {
		file := "--kubeconfig=" + c.path(name+".kubeconfig")
		return []string{file, "--authentication-" + file[2:], "--authorization-" + file[2:], "--bind-address=127.0.0.1", "--leader-elect=false", "--profiling=false"}
	}
	masks := []string{"--node-cidr-mask-size=24"}
	if c.DualStack {
		masks = []string{"--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"}
	}
	controllers := append(access("controller-manager"),
		"--use-service-account-credentials", "--root-ca-file="+pki("ca.crt"), "--service-account-private-key-file="+pki("sa.key"),
		"--client-ca-file="+pki("ca.crt"), "--requestheader-client-ca-file="+pki("front-proxy-ca.crt"),
		"--cluster-signing-cert-file="+pki("ca.crt"), "--cluster-signing-key-file="+pki("ca.key"),
		"--controllers=*,bootstrapsigner,tokencleaner",
		"--allocate-node-cidrs", "--cluster-cidr="+c.podCIDRs(), "--service-cluster-ip-range="+c.serviceCIDRs(),
		"--cluster-name="+c.Name, "--flex-volume-plugin-dir="+c.node(1).path("volume-plugins"))
	controllers = append(controllers, masks...)
	return []unit{
		{
			Name: "kube-controller-manager", Command: append([]string{bin["kube-controller-manager"]}, controllers...), Environment: environment,
			Config: digestFiles(c.path("controller-manager.kubeconfig"), pki("ca.crt"), pki("sa.key")),
		},
		{
			Name: "kube-scheduler", Command: append([]string{bin["kube-scheduler"]}, access("scheduler")...), Environment: environment,
			Config: digestFiles(c.path("scheduler.kubeconfig")),
		},
		{
			Name:        "local-provisioner",
			Command:     []string{bin["local-provisioner"], "--kubeconfig=" + c.path("provisioner.kubeconfig"), "--root=" + c.path("volumes")},
			Environment: environment, Config: digestFiles(c.path("provisioner.kubeconfig")),
		},
	}
}

// containerdUnit runs the node's container runtime. Its own shim and runc come
// first on PATH: others that the machine may have do not fit.
func (n node) containerdUnit(bin binaries, texts map[string]string) unit {
	return unit{
		Name:    "containerd",
		Command: []string{bin["containerd"], "--config", n.path("containerd.toml")},
		Environment: []string{
			"PATH=" + filepath.Dir(bin["containerd"]) + ":" + filepath.Dir(bin["runc"]) + ":" + systemPath,
			"HOME=/root",
		},
		Config: digest(texts["containerd.toml"]),
	}
}

func (n node) kubeletUnits(bin binaries, texts map[string]string) []unit {
	environment := []string{"PATH=" + systemPath, "HOME=/root"}
	return []unit{
		{
			Name: "kubelet",
			Command: []string{
				bin["kubelet"], "--config=" + n.path("kubelet.yaml"), "--kubeconfig=" + n.path("kubelet.kubeconfig"),
				"--hostname-override=" + n.name(), "--node-ip=" + n.addresses(),
				"--root-dir=/var/lib/kubelet", "--cert-dir=" + n.path("pki"),
				"--node-labels=topology.kubernetes.io/region=local,topology.kubernetes.io/zone=local",
			},
			Environment: environment,
			Config:      digest(texts["kubelet.yaml"], digestFiles(n.path("kubelet.kubeconfig"), n.path("pki", "kubelet-serving.crt"))),
		},
		{
			Name: "kube-proxy", Command: []string{bin["kube-proxy"], "--config=" + n.path("kube-proxy.yaml")}, Environment: environment,
			Config: digest(texts["kube-proxy.yaml"], digestFiles(n.cluster.path("proxy.kubeconfig"))),
		},
	}
}
