package provider

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/log"
	vkslog "github.com/virtual-kubelet/virtual-kubelet/log/slog"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"
)

// Identity is who the provider is towards Kubernetes.
type Identity string

const (
	// IdentityNode is system:node:<name>, with a certificate obtained by a
	// CertificateSigningRequest: confined to the node's own pods.
	IdentityNode Identity = "node"
	// IdentityServiceAccount is the ServiceAccount of the control plane's pod,
	// for clusters that do not sign nodes' certificates. It needs wider rights.
	IdentityServiceAccount Identity = "serviceaccount"
)

// ClusterConfig says how to reach Kubernetes and who to be there.
type ClusterConfig struct {
	// Kubeconfig is a file; empty means the pod's own ServiceAccount. Its user
	// takes the ServiceAccount's place.
	Kubeconfig string
	NodeName   string
	// Namespace is the control plane's own.
	Namespace string
	Identity  Identity
	// Signer of node certificates; empty means Kubernetes' own.
	Signer string
	// GenerationLease is the Lease that counts starts, in Namespace (default
	// "sanfran-control-plane-generation").
	GenerationLease string
	// Owner is the StatefulSet in Namespace that the Lease goes with; empty: none.
	Owner string
	// DataDir keeps the node's certificate between starts; empty: in memory.
	DataDir string
	Log     *slog.Logger
}

// Cluster is a connection to Kubernetes. It is safe for concurrent use.
type Cluster struct {
	config ClusterConfig
	// account is the ServiceAccount's client, node the provider's own, beat one
	// for the node's lease alone.
	account, node, beat kubernetes.Interface
	certificate         *nodeCertificate // nil with IdentityServiceAccount
	// version is the API server's.
	version string
}

// Requests a client may make in a second and at once. The API server's own
// priority and fairness is what limits; these keep a fault from flooding it.
const (
	clientQPS   = 1000
	clientBurst = 2000
)

// Connect reaches Kubernetes and obtains the provider's identity there. It
// returns once that identity is proved, or an error that says what is missing.
func Connect(ctx context.Context, config ClusterConfig) (*Cluster, error) {
	base, err := restConfig(config.Kubeconfig)
	if err != nil {
		return nil, err
	}
	if config.GenerationLease == "" {
		config.GenerationLease = "sanfran-control-plane-generation"
	}
	c := &Cluster{config: config}
	if c.account, err = kubernetes.NewForConfig(base); err != nil {
		return nil, fmt.Errorf("make a Kubernetes client: %w", err)
	}
	version, err := c.account.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("reach the API server %s: %w", base.Host, err)
	}
	c.version = version.GitVersion
	own := base
	switch config.Identity {
	case IdentityServiceAccount:
	case IdentityNode:
		c.certificate = newNodeCertificate(c.account, config)
		if own, err = c.certificate.restConfig(base); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("--kubernetes-identity %q: give %q or %q", config.Identity, IdentityNode, IdentityServiceAccount)
	}
	if c.node, err = kubernetes.NewForConfig(own); err != nil {
		return nil, fmt.Errorf("make the node's Kubernetes client: %w", err)
	}
	beat := rest.CopyConfig(own)
	beat.Timeout = 10 * time.Second
	if c.beat, err = kubernetes.NewForConfig(beat); err != nil {
		return nil, fmt.Errorf("make the client of the node's lease: %w", err)
	}
	if c.certificate != nil {
		if err := c.certificate.open(ctx, c.beat); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Run renews the provider's certificate until ctx ends.
func (c *Cluster) Run(ctx context.Context) error {
	if c.certificate == nil {
		<-ctx.Done()
		return nil
	}
	return c.certificate.run(ctx)
}

func restConfig(kubeconfig string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if kubeconfig != "" {
		if config, err = clientcmd.BuildConfigFromFlags("", kubeconfig); err != nil {
			return nil, fmt.Errorf("read the kubeconfig %s: %w", kubeconfig, err)
		}
	} else if config, err = rest.InClusterConfig(); err != nil {
		return nil, fmt.Errorf("find Kubernetes: this is not a pod with a ServiceAccount's token; outside a cluster give --kubeconfig: %w", err)
	}
	config.QPS, config.Burst = clientQPS, clientBurst
	config.UserAgent = "sanfran"
	return config, nil
}

// rotatingTransport is the transport of a client whose certificate changes.
// CloseAll ends connections that were made with a former one.
func rotatingTransport(anonymous *rest.Config, certificate *nodeCertificate) (http.RoundTripper, *connrotation.Dialer, error) {
	tlsConfig, err := rest.TLSConfigFor(anonymous)
	if err != nil {
		return nil, nil, fmt.Errorf("read the API server's CA: %w", err)
	}
	if tlsConfig == nil {
		return nil, nil, fmt.Errorf("the API server %s is not reached by TLS, so no certificate can be presented: use --kubernetes-identity=%s", anonymous.Host, IdentityServiceAccount)
	}
	tlsConfig.GetClientCertificate = certificate.present
	dialer := connrotation.NewDialer((&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext)
	return utilnet.SetTransportDefaults(&http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSHandshakeTimeout: 10 * time.Second,
		TLSClientConfig:     tlsConfig,
		MaxIdleConnsPerHost: 25,
		DialContext:         dialer.DialContext,
	}), dialer, nil
}

// LogTo has the Kubernetes libraries log to logger, of which they have one in
// the process. It is to be called once, before [Connect].
func LogTo(logger *slog.Logger) {
	klog.SetSlogLogger(logger)
	log.L = vkslog.FromSlog(logger)
}
