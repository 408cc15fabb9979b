package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Address ranges inside every cluster. 10.245.0.0/16 is left out on purpose:
// SanFran gives it to function pods.
const (
	podCIDR4      = "10.244.0.0/16"
	serviceCIDR4  = "10.96.0.0/16"
	functionCIDR4 = "10.245.0.0/16"
	apiService4   = "10.96.0.1"
	dnsService4   = "10.96.0.10"

	podCIDR6     = "fd00:10:244::/56"
	serviceCIDR6 = "fd00:10:96::/112"
	apiService6  = "fd00:10:96::1"
)

const clusterDomain = "cluster.local"

// cluster is what one cluster is made of. It is written to disk before
// anything else is made, so that `down` knows what there may be.
type cluster struct {
	Name      string       `json:"name"`
	Nodes     int          `json:"nodes"`
	DualStack bool         `json:"dualStack"`
	Subnet4   netip.Prefix `json:"subnet4"` // the nodes' addresses; .1 is the machine
	Subnet6   netip.Prefix `json:"subnet6,omitzero"`
}

// node is one node of a cluster; the first one has the number 1 and runs the
// control plane.
type node struct {
	cluster *cluster
	number  int
}

var clusterName = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$`)

func checkName(name string) error {
	if !clusterName.MatchString(name) {
		return fmt.Errorf("cluster name %q: use up to 32 of a-z, 0-9 and '-', starting with a letter and not ending with '-'", name)
	}
	return nil
}

// stateBase is the folder that holds a folder per cluster:
// $SANFRAN_LOCAL_STATE, else /var/lib/sanfran-local.
func stateBase() string {
	if dir := os.Getenv("SANFRAN_LOCAL_STATE"); dir != "" {
		if absolute, err := filepath.Abs(dir); err == nil {
			return absolute
		}
	}
	return "/var/lib/sanfran-local"
}

// errNoCluster says that a cluster is not up.
var errNoCluster = errors.New("there is no such cluster")

// openCluster reads the record of an existing cluster.
func openCluster(name string) (*cluster, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	c := &cluster{Name: name}
	content, err := os.ReadFile(c.path("cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cluster %q: %w; `make cluster CLUSTER=%s` starts it", name, errNoCluster, name)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(content, c); err != nil {
		return nil, fmt.Errorf("%s: %w; `make cluster-down CLUSTER=%s` and `make cluster CLUSTER=%s` start anew", c.path("cluster.json"), err, name, name)
	}
	c.Name = name
	return c, nil
}

func (c *cluster) save() error {
	content, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(c.path("cluster.json"), content, 0o644)
}

// path is below the cluster's own folder.
func (c *cluster) path(elements ...string) string {
	return filepath.Join(append([]string{stateBase(), c.Name}, elements...)...)
}

// id is a short name for what cannot carry the cluster's own, such as a
// network device (15 bytes).
func (c *cluster) id() string {
	sum := sha256.Sum256([]byte(c.Name))
	return hex.EncodeToString(sum[:])[:6]
}

func (c *cluster) bridge() string {
	if name := "sf-" + c.Name; len(name) <= 15 {
		return name
	}
	return "sf-" + c.id()
}

func (c *cluster) gateway4() netip.Addr { return c.Subnet4.Addr().Next() }
func (c *cluster) gateway6() netip.Addr { return c.Subnet6.Addr().Next() }

func (c *cluster) node(number int) node { return node{cluster: c, number: number} }

func (c *cluster) nodes() []node {
	nodes := make([]node, c.Nodes)
	for i := range nodes {
		nodes[i] = c.node(i + 1)
	}
	return nodes
}

// findNode understands a node's full name, "node-2" and "2".
func (c *cluster) findNode(name string) (node, error) {
	for _, n := range c.nodes() {
		if name == n.name() || name == fmt.Sprintf("node-%d", n.number) || name == fmt.Sprint(n.number) {
			return n, nil
		}
	}
	names := make([]string, 0, c.Nodes)
	for _, n := range c.nodes() {
		names = append(names, n.name())
	}
	return node{}, fmt.Errorf("cluster %q has no node %q; it has %s", c.Name, name, strings.Join(names, ", "))
}

func (c *cluster) podCIDRs() string     { return c.both(podCIDR4, podCIDR6) }
func (c *cluster) serviceCIDRs() string { return c.both(serviceCIDR4, serviceCIDR6) }

func (c *cluster) both(four, six string) string {
	if c.DualStack {
		return four + "," + six
	}
	return four
}

func (c *cluster) apiServer() string {
	return "https://" + netip.AddrPortFrom(c.node(1).address4(), 6443).String()
}

func (c *cluster) kubeconfigPath() string { return c.path("admin.kubeconfig") }

// name is the node's name in Kubernetes; it is unique on the machine.
func (n node) name() string { return fmt.Sprintf("%s-node-%d", n.cluster.Name, n.number) }

// path is below the node's own folder.
func (n node) path(elements ...string) string {
	return n.cluster.path(append([]string{"nodes", n.name()}, elements...)...)
}

func (n node) address4() netip.Addr { return offset(n.cluster.Subnet4.Addr(), n.number+10) }
func (n node) address6() netip.Addr { return offset(n.cluster.Subnet6.Addr(), n.number+10) }

func (n node) addresses() string {
	if n.cluster.DualStack {
		return n.address4().String() + "," + n.address6().String()
	}
	return n.address4().String()
}

// veth is the machine's end of the cable to the node.
func (n node) veth() string { return fmt.Sprintf("sf%s-%d", n.cluster.id(), n.number) }

// cgroup is the node's cgroup, below the root of the machine's.
func (n node) cgroup() string { return n.name() }

// offset is the address steps after base.
func offset(base netip.Addr, steps int) netip.Addr {
	for range steps {
		base = base.Next()
	}
	return base
}

// writeFile replaces a file in one step, and only if its content differs, so
// that running `up` again changes nothing.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == string(content) {
		return os.Chmod(path, mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Chmod(mode)
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		os.Remove(file.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
