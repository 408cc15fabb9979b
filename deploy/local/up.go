package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// upOptions is what a user may choose about a cluster.
type upOptions struct {
	name      string
	nodes     int // 0: as many as the cluster has, or 1
	dualStack bool
	keepStack bool // dualStack was not asked for; the cluster keeps what it has
	proxyMode string
}

func newUpCommand(name *string) *cobra.Command {
	var options upOptions
	command := &cobra.Command{
		Use:   "up",
		Short: "start a cluster, or bring back what is missing of it",
		Args:  cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			options.name = *name
			if !command.Flags().Changed("nodes") {
				options.nodes = 0
			} else if options.nodes < 1 || options.nodes > maxNodes {
				return fmt.Errorf("--nodes %d: a cluster has 1 to %d nodes", options.nodes, maxNodes)
			}
			options.keepStack = !command.Flags().Changed("dual-stack")
			return up(command.Context(), os.Stderr, options)
		},
	}
	command.Flags().IntVar(&options.nodes, "nodes", 1, "number of nodes; an existing cluster keeps those it has unless there are to be more")
	command.Flags().BoolVar(&options.dualStack, "dual-stack", false, "give nodes, pods and services IPv6 addresses too")
	command.Flags().StringVar(&options.proxyMode, "proxy-mode", "nftables", "how kube-proxy works: nftables or iptables")
	return command
}

// startLimit is how long each step of a start may take. A step takes seconds;
// on a machine that is busy with other things, or emulated, minutes.
const startLimit = 4 * time.Minute

// maxNodes keeps addresses and cgroups within what was thought about.
const maxNodes = 16

func up(ctx context.Context, progress io.Writer, options upOptions) error {
	if err := checkName(options.name); err != nil {
		return err
	}
	if options.proxyMode != "nftables" && options.proxyMode != "iptables" {
		return fmt.Errorf("--proxy-mode %q: it is nftables or iptables", options.proxyMode)
	}
	if err := errors.Join(checkRun(), checkBuild(nil)); err != nil {
		return err
	}
	// Once before the builds, which take minutes, and once under the lock.
	if _, err := planCluster(options); err != nil {
		return err
	}
	bin, err := build(ctx, progress, nil)
	if err != nil {
		return err
	}
	unlock, err := lockFile(ctx, filepath.Join(stateBase(), ".lock"), func() {
		fmt.Fprintln(progress, "up: another command changes clusters; waiting for it")
	})
	if err != nil {
		return err
	}
	defer unlock()
	c, err := planCluster(options)
	if err != nil {
		return err
	}
	start := time.Now()
	r := &run{cluster: c, bin: bin, options: options, say: func(format string, arguments ...any) {
		fmt.Fprintf(progress, "%5.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, arguments...))
	}}
	if err := r.all(ctx); err != nil {
		return fmt.Errorf("cluster %s: %w\nlogs are in %s; `up` again goes on, `down` removes it", c.Name, err, c.path("log"))
	}
	return nil
}

// planCluster reads the cluster's record, or makes one, and makes sure that
// nothing foreign is in its way. It changes nothing.
func planCluster(options upOptions) (*cluster, error) {
	c, err := openCluster(options.name)
	if errors.Is(err, errNoCluster) {
		taken, err := takenPrefixes()
		if err != nil {
			return nil, err
		}
		four, six, err := chooseSubnets(options.name, taken)
		if err != nil {
			return nil, err
		}
		c = &cluster{Name: options.name, Nodes: max(1, options.nodes), DualStack: options.dualStack, Subnet4: four, Subnet6: six}
		return c, c.checkNetwork()
	}
	if err != nil {
		return nil, err
	}
	if !options.keepStack && c.DualStack != options.dualStack {
		return nil, fmt.Errorf("cluster %q was started with --dual-stack=%t, which cannot be changed; run `make cluster-down CLUSTER=%s` first", c.Name, c.DualStack, c.Name)
	}
	if options.nodes == 0 {
		return c, c.checkNetwork()
	}
	if options.nodes < c.Nodes {
		return nil, fmt.Errorf("cluster %q has %d nodes and does not shrink; run `make cluster-down CLUSTER=%s` first, or ask for --nodes %d", c.Name, c.Nodes, c.Name, c.Nodes)
	}
	c.Nodes = options.nodes
	return c, c.checkNetwork()
}

// run is one run of `up`.
type run struct {
	cluster   *cluster
	bin       binaries
	options   upOptions
	say       func(format string, arguments ...any)
	machine   *machine
	upstreams []string
	nodes     []*startedNode
}

type startedNode struct {
	node
	process process
	texts   map[string]string
}

func (r *run) all(ctx context.Context) error {
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for number := range r.cluster.Nodes {
		if err := r.startNode(ctx, r.cluster.node(number+1)); err != nil {
			return err
		}
	}
	if err := r.startControlPlane(ctx); err != nil {
		return err
	}
	access, err := r.cluster.api()
	if err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := n.apply(ctx, n.kubeletUnits(r.bin, n.texts)...); err != nil {
			return err
		}
	}
	// While kubelets register.
	if err := r.importImages(ctx); err != nil {
		return err
	}
	if err := r.addons(ctx); err != nil {
		return err
	}
	if err := r.connectPods(ctx, access); err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := n.waitForUnit(ctx, "kubelet", "node "+n.name()+" to be Ready", func(ctx context.Context) error { return access.nodeReady(ctx, n.node) }); err != nil {
			return err
		}
		r.say("node %s is Ready", n.name())
	}
	if err := wait(ctx, startLimit, "the cluster's DNS", func(ctx context.Context) error { return access.deploymentAvailable(ctx, "kube-system", "coredns") }); err != nil {
		return err
	}
	r.say("cluster %s is up: export KUBECONFIG=%s", r.cluster.Name, r.cluster.kubeconfigPath())
	return nil
}

// prepare makes what belongs to the whole cluster: files, and the machine's
// side of the network.
func (r *run) prepare(ctx context.Context) error {
	var err error
	if err := r.cluster.save(); err != nil {
		return err
	}
	if r.machine, err = openMachine(); err != nil {
		return err
	}
	for name, value := range machineSysctls {
		if err := r.machine.set(name, value); err != nil {
			return fmt.Errorf("kernel setting %s: %w", name, err)
		}
	}
	if r.cluster.DualStack {
		if err := r.machine.set("net/ipv6/conf/all/forwarding", "1"); err != nil {
			return err
		}
	}
	if err := r.cluster.issueIdentities(time.Now()); err != nil {
		return err
	}
	r.upstreams = upstreams(ctx)
	return r.cluster.makeBridge(ctx)
}

// startNode starts a node as far as its container runtime.
func (r *run) startNode(ctx context.Context, n node) error {
	if err := writeFile(n.path("resolv.conf"), []byte(resolvConf(r.upstreams)), 0o644); err != nil {
		return err
	}
	texts, err := n.writeConfigs(r.bin, r.options.proxyMode, !mayRaisePriority())
	if err != nil {
		return err
	}
	p, started, err := n.start(ctx, r.machine)
	if err != nil {
		return err
	}
	if err := n.connect(ctx, p); err != nil {
		return err
	}
	if err := n.apply(ctx, n.containerdUnit(r.bin, texts)); err != nil {
		return err
	}
	if started {
		r.say("node %s started at %s", n.name(), n.address4())
	}
	r.nodes = append(r.nodes, &startedNode{node: n, process: p, texts: texts})
	return nil
}

// startControlPlane starts etcd, then the API server, then its controllers,
// each once what it needs is there.
func (r *run) startControlPlane(ctx context.Context) error {
	first := r.nodes[0]
	if err := first.apply(ctx, r.cluster.etcdUnit(r.bin)); err != nil {
		return err
	}
	if err := first.waitForUnit(ctx, "etcd", "etcd", func(ctx context.Context) error { return r.etcdHealthy(ctx) }); err != nil {
		return err
	}
	if err := first.apply(ctx, r.cluster.apiServerUnit(r.bin)); err != nil {
		return err
	}
	access, err := r.cluster.api()
	if err != nil {
		return err
	}
	if err := first.waitForUnit(ctx, "kube-apiserver", "the API server", func(ctx context.Context) error { return access.get(ctx, "/readyz", nil) }); err != nil {
		return err
	}
	r.say("the API server is ready at %s", r.cluster.apiServer())
	return first.apply(ctx, r.cluster.controllerUnits(r.bin)...)
}

// etcdHealthy asks etcd inside the first node, where alone it can be reached.
func (r *run) etcdHealthy(ctx context.Context) error {
	pair, err := tls.LoadX509KeyPair(r.cluster.path("pki", "etcd-client.crt"), r.cluster.path("pki", "etcd-client.key"))
	if err != nil {
		return err
	}
	return getInside(ctx, r.nodes[0].process, pair, r.cluster.path("pki", "etcd-ca.crt"), "https://127.0.0.1:2379/health")
}

func (r *run) importImages(ctx context.Context) error {
	wanted, err := images(ctx, r.bin)
	if err != nil {
		return err
	}
	for _, n := range r.nodes {
		if err := n.waitForUnit(ctx, "containerd", "containerd of node "+n.name(), func(ctx context.Context) error {
			_, err := n.process.run(ctx, false, nil, r.bin["ctr"], "version")
			return err
		}); err != nil {
			return err
		}
		if err := n.loadImages(ctx, n.process, r.bin, wanted); err != nil {
			return err
		}
	}
	return nil
}

// addons applies what every cluster has: DNS and a storage class.
func (r *run) addons(ctx context.Context) error {
	text, err := render("addons.yaml", map[string]any{
		"Domain": clusterDomain, "DNS": dnsService4, "Image": coreDNSImage, "Upstreams": strings.Join(r.upstreams, " "),
	})
	if err != nil {
		return err
	}
	return wait(ctx, startLimit, "the API server to take DNS and storage class", func(context.Context) error {
		attempt, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		command := exec.CommandContext(attempt, r.bin["kubectl"], "--kubeconfig", r.cluster.kubeconfigPath(),
			"apply", "--server-side", "--force-conflicts", "--field-manager=sanfran-local", "-f", "-")
		command.Stdin = bytes.NewReader(text)
		if output, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("kubectl apply: %w: %s", err, output)
		}
		return nil
	})
}

// connectPods gives each node the range of pod addresses that Kubernetes chose
// for it, and routes to those of the others.
func (r *run) connectPods(ctx context.Context, access *api) error {
	ranges := map[int][]string{}
	for _, n := range r.nodes {
		if err := n.waitForUnit(ctx, "kubelet", "node "+n.name()+" to register", func(ctx context.Context) (err error) {
			ranges[n.number], err = access.podCIDRs(ctx, n.node)
			return err
		}); err != nil {
			return err
		}
		if err := n.writeCNI(ranges[n.number]); err != nil {
			return err
		}
	}
	for _, n := range r.nodes {
		handle, err := handleAt(n.process)
		if err != nil {
			return err
		}
		defer handle.Close()
		for _, other := range r.nodes {
			if other == n {
				continue
			}
			for _, text := range ranges[other.number] {
				prefix, err := netip.ParsePrefix(text)
				if err != nil {
					return err
				}
				gateway := other.address4()
				if prefix.Addr().Is6() {
					gateway = other.address6()
				}
				if err := n.route(handle, prefix, gateway); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
