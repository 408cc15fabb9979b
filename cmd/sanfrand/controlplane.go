package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"sanfran.dev/internal/process"
	"sanfran.dev/provider"
	"sanfran.dev/warmpool"
)

type controlPlaneOptions struct {
	log            logFlags
	cluster        provider.ClusterConfig
	node           provider.Config
	sizing         warmpool.PoolSizing
	identity       string
	nodeIP         string
	podCIDRs       []string
	name           string
	grpcAddress    string
	kubeletAddress string
	healthAddress  string
	serviceNames   []string
	agentAccount   string
	gatewayAccount string
	statefulSet    string
	maxBundleBytes int64
}

func newControlPlaneCommand() *cobra.Command {
	var o controlPlaneOptions
	cmd := &cobra.Command{
		Use:   "controlplane",
		Short: "Run the control plane: the virtual node, placement and routes",
		Long: `Run the control plane of one virtual node.

From a checkout, in place of a cluster's: scale the control plane's StatefulSet to
zero, give --kubeconfig, --namespace, --node-ip (an address of this machine that the
API server, agents and gateways reach), and --service-name as in the StatefulSet; then
have agents and gateways reach this machine by --control-plane. A new --data-dir
is fine: its store is not needed to recover, bundles are stored again.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	o.log.add(cmd)
	o.addFlags(cmd)
	return cmd
}

func (o *controlPlaneOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.cluster.Kubeconfig, "kubeconfig", "", "kubeconfig file (default: the pod's own ServiceAccount)")
	flags.StringVar(&o.cluster.Namespace, "namespace", "", "the control plane's own namespace (required)")
	flags.StringVar(&o.identity, "kubernetes-identity", string(provider.IdentityNode), `who to be towards Kubernetes: "node" or "serviceaccount"`)
	flags.StringVar(&o.cluster.Signer, "certificate-signer", "", "signer of the node's client certificate (default: Kubernetes' own for kubelets)")
	flags.StringVar(&o.cluster.NodeName, "virtual-node", "sanfran", "name of the virtual node")
	flags.StringVar(&o.node.Group, "virtual-node-group", "", "value of the label sanfran.dev/virtual-node (default sanfran)")
	flags.StringVar(&o.nodeIP, "node-ip", "", "address at which the API server reaches --kubelet-address (required)")
	flags.StringSliceVar(&o.podCIDRs, "pod-cidr", []string{"10.245.0.0/16"}, "range of function pods' addresses, and one of IPv6 behind a comma")
	flags.Int64Var(&o.node.MaxPods, "max-pods", 10000, "how many pods the virtual node takes at most")
	flags.DurationVar(&o.node.IdleTimeout, "idle-timeout", time.Minute, "how long a pod may be without activity before it is parked; 0: never")
	flags.StringVar(&o.node.ClusterDomain, "cluster-domain", "cluster.local", "the cluster's DNS domain")
	flags.StringVar(&o.name, "name", "sanfran", "the installation's name: <name>-ca is its authority's Secret and ConfigMap, <name>-control-plane-generation counts its starts")
	flags.StringVar(&o.statefulSet, "owner", "", "StatefulSet that owns what the control plane makes in its namespace, so that it goes with it (default: none)")
	flags.StringVar(&o.cluster.DataDir, "data-dir", "/var/lib/sanfran", "folder for functions' code and the ledger")
	flags.Int64Var(&o.maxBundleBytes, "max-bundle-bytes", 256<<20, "the largest function code taken, in bytes")
	flags.StringVar(&o.grpcAddress, "grpc-address", ":7443", "host:port for agents and gateways")
	flags.StringVar(&o.kubeletAddress, "kubelet-address", ":10250", "host:port of the virtual node's kubelet API")
	flags.StringVar(&o.healthAddress, "health-address", ":8081", "host:port of /healthz, /readyz and /metrics")
	flags.StringSliceVar(&o.serviceNames, "service-name", nil, "DNS name in the certificate for agents and gateways; may be given several times (required)")
	flags.StringVar(&o.agentAccount, "agent-service-account", "sanfran-agent", "ServiceAccount of agents, in --namespace")
	flags.StringVar(&o.gatewayAccount, "gateway-service-account", "sanfran-gateway", "ServiceAccount of gateways, in --namespace")
	flags.IntVar(&o.sizing.Floor, "pool-floor", 0, "warm containers that agents keep when it is quiet, of the default runtime and of those that their pods use; 0: leave pools to the agents")
	flags.IntVar(&o.sizing.Unused, "pool-unused", 1, "warm containers that agents keep of any other runtime")
	flags.IntVar(&o.sizing.Max, "pool-max", 20, "warm containers of each runtime that agents keep at most")
	flags.DurationVar(&o.sizing.Refill, "pool-refill", time.Second, "how long agents take to make a container warm")
	for _, name := range []string{"namespace", "node-ip", "service-name"} {
		must(cmd.MarkFlagRequired(name))
	}
}

// complete parses the flags that are more than words and numbers.
func (o *controlPlaneOptions) complete() (err error) {
	if o.node.Address, err = netip.ParseAddr(o.nodeIP); err != nil {
		return fmt.Errorf("--node-ip: %w", err)
	}
	if o.node.PodCIDR, o.node.PodCIDR6, err = bothFamilies(o.podCIDRs, netip.ParsePrefix, isPrefix4); err != nil {
		return fmt.Errorf("--pod-cidr: %w", err)
	}
	o.cluster.Identity = provider.Identity(o.identity)
	o.cluster.GenerationLease = o.name + "-control-plane-generation"
	o.cluster.Owner = o.statefulSet
	o.node.Version = version
	o.sizing.DefaultRuntime = provider.DefaultRuntime
	if o.sizing.Floor == 0 {
		o.sizing = warmpool.PoolSizing{}
	}
	if err := os.MkdirAll(o.cluster.DataDir, 0o700); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	return nil
}

func (o *controlPlaneOptions) run(ctx context.Context) error {
	log, err := o.log.logger()
	if err != nil {
		return err
	}
	log = log.With("process", "controlplane", "virtualNode", o.cluster.NodeName)
	o.cluster.Log = log
	if err := o.complete(); err != nil {
		return err
	}
	ctx, cancel := process.WithSignals(ctx)
	defer cancel()
	listeners, err := o.listen(ctx)
	if err != nil {
		return err
	}
	provider.LogTo(log)

	// Liveness answers while Kubernetes is being reached, which may take long
	// and must not have the process restarted.
	health := process.NewHealth()
	registry := newRegistry()
	mux := health.Handler()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	main := process.Part{Name: "control plane", Run: func(ctx context.Context) error {
		parts, err := o.assemble(ctx, log, listeners, health)
		if err != nil {
			return errors.Join(err, listeners.grpc.Close(), listeners.kubelet.Close())
		}
		registry.MustRegister(parts.pool)
		return errors.Join(process.Run(ctx, log, nil, parts.groups...), parts.pool.Close())
	}}
	health.Check("start", func(context.Context) error { return errors.New("no answer from Kubernetes yet") })
	log.Info("the control plane starts", "version", version)
	return process.Run(ctx, log, health,
		process.Group{Name: "health", Parts: []process.Part{process.ServeHTTP("health", listeners.health, http.Handler(mux), time.Second)}},
		process.Group{Name: "control plane", StopWithin: 25 * time.Second, Parts: []process.Part{main}},
	)
}
