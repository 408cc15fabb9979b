package main

import (
	"bytes"
	"embed"
	"fmt"
	"path/filepath"
	"text/template"

	"golang.org/x/sys/unix"
)

//go:embed templates
var templates embed.FS

// cniPlugins is where Debian's containernetworking-plugins puts them.
const cniPlugins = "/usr/lib/cni"

// systemPath is where nodes find the machine's programs, nft above all.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// render fills in one of the templates; a value that is missing is an error.
func render(name string, values map[string]any) ([]byte, error) {
	parsed, err := template.New(name).Option("missingkey=error").ParseFS(templates, "templates/"+name)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, values); err != nil {
		return nil, fmt.Errorf("template %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// writeConfigs writes the configuration files of the node's programs and
// returns their text by file name.
func (n node) writeConfigs(bin binaries, mode string, restrictOOM bool) (map[string]string, error) {
	snapshotter := "overlayfs"
	var stat unix.Statfs_t
	if unix.Statfs(stateBase(), &stat) == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		snapshotter = "native" // an overlay cannot lie on an overlay
	}
	values := map[string]any{
		"Root":          n.path("containerd"),
		"Snapshotter":   snapshotter,
		"Pause":         pauseImage,
		"RestrictOOM":   restrictOOM,
		"CNI":           cniPlugins,
		"CNIConfig":     n.path("cni-config"),
		"Runc":          bin["runc"],
		"CA":            n.cluster.path("pki", "ca.crt"),
		"Cgroup":        n.cgroup(),
		"DNS":           dnsService4,
		"Domain":        clusterDomain,
		"ResolvConf":    n.path("resolv.conf"),
		"Certificate":   n.path("pki", "kubelet-serving.crt"),
		"Key":           n.path("pki", "kubelet-serving.key"),
		"VolumePlugins": n.path("volume-plugins"),
		"Kubeconfig":    n.cluster.path("proxy.kubeconfig"),
		"PodCIDRs":      n.cluster.podCIDRs(),
		"Node":          n.name(),
		"Mode":          mode,
	}
	texts := map[string]string{}
	for _, name := range []string{"containerd.toml", "kubelet.yaml", "kube-proxy.yaml"} {
		text, err := render(name, values)
		if err != nil {
			return nil, err
		}
		if err := writeFile(n.path(name), text, 0o644); err != nil {
			return nil, err
		}
		texts[name] = string(text)
	}
	return texts, writeFile(filepath.Join(n.path("cni-config"), ".keep"), nil, 0o644)
}

// writeCNI tells the node's runtime how to give pods addresses out of ranges;
// from then on the node can be Ready.
func (n node) writeCNI(ranges []string) error {
	routes := []string{"0.0.0.0/0"}
	if n.cluster.DualStack {
		routes = append(routes, "::/0")
	}
	text, err := render("cni.conflist", map[string]any{"Ranges": ranges, "Routes": routes})
	if err != nil {
		return err
	}
	return writeFile(n.path("cni-config", "10-sanfran-local.conflist"), text, 0o644)
}
