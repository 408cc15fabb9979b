package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Config is how the virtual node is. The zero value of each optional field is
// its default.
type Config struct {
	// Group is the value of the label and taint sanfran.dev/virtual-node that
	// all virtual nodes of an installation share (default "sanfran").
	Group string
	// Address is where the kubelet API is reached: the control plane's pod IP.
	// It is also the hostIP of function pods.
	Address netip.Addr
	// Version is SanFran's (default "dev"); the node shows it behind the API
	// server's, as tools expect a kubelet's version there.
	Version string
	// MaxPods bounds the pods the node offers (default 10000).
	MaxPods int64
	// PodCIDR is where pods' addresses are from, PodCIDR6 where their IPv6
	// addresses are from; zero: they have none.
	PodCIDR, PodCIDR6 netip.Prefix
	// IdleTimeout parks pods that say nothing else; 0: never.
	IdleTimeout time.Duration
	// ClusterDomain is the cluster's DNS domain (default "cluster.local").
	ClusterDomain string
	// Labels are further labels of the node, e.g. its zone.
	Labels map[string]string
	// KubeletCertificate is what the kubelet API presents (default: a
	// self-signed certificate).
	KubeletCertificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Provider is one virtual node.
type Provider struct {
	cluster *Cluster
	config  Config
	virtual virtualNode
	kubelet net.Listener
	pods    *podController
	api     kubeletAPI
	log     *slog.Logger
}

func (c Config) podCIDRs() []netip.Prefix {
	cidrs := []netip.Prefix{c.PodCIDR}
	if c.PodCIDR6.IsValid() {
		cidrs = append(cidrs, c.PodCIDR6)
	}
	return cidrs
}

// Agents is how the node reaches into its pods.
type Agents interface {
	Logs
	Programs
	Meter
}

// New prepares the virtual node; nothing is seen of it before Run. The kubelet
// API is served on the listener, which the provider owns from then on.
func New(cluster *Cluster, config Config, leases Leases, bundles Bundles, agents Agents, kubelet net.Listener) (*Provider, error) {
	if config.Group == "" {
		config.Group = "sanfran"
	}
	if config.Version == "" {
		config.Version = "dev"
	}
	if config.MaxPods == 0 {
		config.MaxPods = 10000
	}
	if config.ClusterDomain == "" {
		config.ClusterDomain = "cluster.local"
	}
	if !config.Address.IsValid() || config.Address.IsUnspecified() {
		return nil, fmt.Errorf("the node's address is %v: give the address at which the API server reaches the kubelet API", config.Address)
	}
	pool, err := newAddressPools(config.PodCIDR, config.PodCIDR6, rand.Uint64(), time.Now)
	if err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(kubelet.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("read the kubelet API's port: %w", err)
	}
	p := &Provider{cluster: cluster, config: config, kubelet: kubelet, log: cluster.config.Log}
	p.virtual = virtualNode{
		name: cluster.config.NodeName, group: config.Group, address: config.Address, port: int32(at.Port()),
		version: cluster.version + "-sanfran-" + config.Version, maxPods: config.MaxPods, since: time.Now(), labels: config.Labels,
	}
	p.pods = &podController{
		client: cluster.node, account: cluster.account, nodeName: cluster.config.NodeName, hostIP: config.Address.String(),
		idleTimeout: config.IdleTimeout, leases: leases, bundles: bundles,
		objects: newClusterObjects(cluster.node, time.Now), addresses: pool,
		facts: factsOf(cluster.node, config.ClusterDomain), now: time.Now, log: p.log,
	}
	p.pods.policies = newPolicies(cluster.account, p.virtual.since, p.pods.ofNamespace, p.pods.policyIgnored)
	known := p.pods.known
	p.api = kubeletAPI{
		pods:     known,
		logs:     &logHandler{pods: known, logs: agents, log: p.log},
		programs: &programHandler{pods: known, programs: agents, log: p.log},
		usage:    &usageReader{pods: known, meter: agents, node: p.virtual.name, since: p.virtual.since, log: p.log},
	}
	return p, nil
}

// Events may come so fast for one pod, and one every so many seconds later; the
// kubelet's own numbers.
const (
	eventBurst = 25
	eventQPS   = 1. / 300
)

// Run serves the node until ctx ends or a part of it fails.
func (p *Provider) Run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx), record.WithCorrelatorOptions(record.CorrelatorOptions{
		BurstSize: eventBurst, QPS: eventQPS,
	}))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: p.cluster.node.CoreV1().Events("")})
	if err := checkRanges(ctx, p.cluster.account, p.config.podCIDRs(), p.log); err != nil {
		return err
	}
	p.pods.events = broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "sanfran", Host: p.virtual.name})

	access := &kubeletAccess{
		nodeName: p.virtual.name, account: p.cluster.account, reviews: p.cluster.node,
		next: p.api.handler(), log: p.log,
	}
	parts := []func(context.Context) error{
		p.cluster.Run,
		p.pods.run,
		p.pods.policies.run,
		func(ctx context.Context) error {
			return runNode(ctx, p.cluster.beat, p.virtual, p.pods.leases, p.log)
		},
		func(ctx context.Context) error {
			return serveKubelet(ctx, p.kubelet, access, p.config.Address, p.virtual.name, p.config.KubeletCertificate)
		},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() {
			defer cancel()
			ended <- part(ctx)
		}()
	}
	var errs []error
	for range parts {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}
