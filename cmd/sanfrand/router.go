package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"sanfran.dev/internal/process"
	routesv1 "sanfran.dev/proto/sanfran/routes/v1"
	"sanfran.dev/router"
)

const (
	// gatewayLinger is how long a stopping gateway takes new requests:
	// kube-proxy and load balancers need a moment to leave it out.
	gatewayLinger = 3 * time.Second
	// gatewayGrace is how long requests in flight may take after that.
	gatewayGrace = 45 * time.Second
)

type routerOptions struct {
	log              logFlags
	connection       connectionFlags
	gateway          gatewayFlags
	healthAddress    string
	dataDir          string
	defaultNamespace string
	hostSuffix       string
	nodeName         string
	queueMemory      int64
}

func newRouterCommand() *cobra.Command {
	var o routerOptions
	cmd := &cobra.Command{
		Use:   "router",
		Short: "Run a gateway: requests to functions by name",
		Long: `Run a gateway. It serves /fn/<name> and /ns/<namespace>/fn/<name>, with --host-suffix
also <name>.<namespace>.<suffix>, from the route table that the control plane streams, and keeps serving from the last one
while the control plane is away.

From a checkout, beside the gateways of a cluster: --token-file with the output of
"kubectl create token", --audience sanfran, for the gateway's ServiceAccount, bound
to one of the gateway's pods (--bound-object-kind Pod --bound-object-name …);
--ca-file with the key ca.crt of SanFran's CA ConfigMap; --control-plane an address
by which this machine reaches the control plane ("kubectl port-forward" will do),
and --control-plane-name the name in its certificate, <service>.<namespace>.svc.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	o.log.add(cmd)
	o.connection.add(cmd)
	flags := cmd.Flags()
	o.gateway.add(cmd)
	flags.StringVar(&o.healthAddress, "health-address", ":8081", "host:port of /healthz, /readyz and /metrics")
	flags.StringVar(&o.dataDir, "data-dir", "", "folder to keep the last route table in; empty: it is not kept")
	flags.StringVar(&o.defaultNamespace, "default-namespace", "default", "namespace of the functions at /fn/<name>")
	flags.StringVar(&o.hostSuffix, "host-suffix", "", "serve functions at <name>.<namespace>.<suffix>, too; empty: by path alone")
	flags.StringVar(&o.nodeName, "node-name", "", "Kubernetes node the gateway runs on, whose containers are preferred; empty: none are")
	flags.Int64Var(&o.queueMemory, "queue-memory-bytes", 128<<20, "what all requests together that wait for containers take at most, in bytes")
	return cmd
}

func (o *routerOptions) run(ctx context.Context) (err error) {
	log, err := o.log.logger()
	if err != nil {
		return err
	}
	log = log.With("process", "router")
	if err := router.CheckHostSuffix(o.hostSuffix); err != nil {
		return fmt.Errorf("--host-suffix: %w", err)
	}
	ctx, cancel := process.WithSignals(ctx)
	defer cancel()

	control, err := o.connection.open(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.close()) }()

	table := router.NewTable()
	watcher, err := router.NewWatcher(router.WatcherConfig{
		Client: routesv1.NewRouteServiceClient(control.Conn), Table: table, File: o.routesFile(), Log: log,
	})
	if err != nil {
		return err
	}
	forwarder := router.NewForwarder(router.ForwarderConfig{Log: log})
	defer forwarder.Close()
	registry := newRegistry()
	tracer, traces, err := tracing(ctx, log, "sanfran-gateway")
	if err != nil {
		return err
	}
	proxies, err := o.gateway.trusted()
	if err != nil {
		return err
	}
	// What goes on until the last request has ended.
	var telling []process.Part
	if traces != nil {
		telling = append(telling, *traces)
	}
	var accessLog *router.AccessLog
	if o.gateway.accessLog {
		accessLog = router.NewAccessLog(os.Stdout, log)
		telling = append(telling, process.Part{Name: "access log", Run: accessLog.Run})
	}
	if o.gateway.connections < 1 {
		return fmt.Errorf("--connections: %d is none: give at least 1", o.gateway.connections)
	}
	metrics := router.NewMetrics(registry, o.gateway.series)
	gateway := router.NewGateway(router.GatewayConfig{
		Table: table, Forwarder: forwarder, DefaultNamespace: o.defaultNamespace, HostSuffix: o.hostSuffix,
		Node: o.nodeName, QueueMemory: o.queueMemory, TrustedProxies: proxies,
		Metrics: metrics, AccessLog: accessLog, Tracer: tracer, Log: log,
	})

	if o.dataDir != "" {
		if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
			return fmt.Errorf("--data-dir: %w", err)
		}
	}
	listeners, err := o.gateway.listen(ctx, log)
	if err != nil {
		return err
	}
	private, err := listen(ctx, "--health-address", o.healthAddress)
	if err != nil {
		return errors.Join(err, closeAll(listeners))
	}
	health := process.NewHealth()
	health.Check("routes", func(context.Context) error {
		select {
		case <-watcher.Ready():
			return nil
		default:
			return errors.New("the control plane has sent no route table yet")
		}
	})
	mux := health.Handler()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	log.Info("the gateway starts", "version", version, "address", listeners[0].Addr().String())
	return process.Run(ctx, log, health,
		process.Group{Name: "health", Parts: []process.Part{process.ServeHTTP("health", private, mux, time.Second)}},
		process.Group{Name: "telling", Parts: telling},
		process.Group{Name: "routes", Parts: []process.Part{
			control.Identity,
			{Name: "routes", Run: func(ctx context.Context) error { return untilDone(ctx, watcher.Run(ctx)) }},
		}},
		process.Group{Name: "gateway", StopWithin: gatewayLinger + gatewayGrace + time.Second, Parts: []process.Part{
			serveGateway(router.NewServer(router.ServerConfig{Handler: gateway, MaxConnections: o.gateway.connections, Metrics: metrics, Log: log}), listeners, gatewayLinger, gatewayGrace),
		}},
	)
}

func (o *routerOptions) routesFile() string {
	if o.dataDir == "" {
		return ""
	}
	return filepath.Join(o.dataDir, "routes")
}

// untilDone is nil for an error that is merely the end of ctx.
func untilDone(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func newRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// listen opens the listener that a flag names.
func listen(ctx context.Context, flag, address string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return listener, nil
}
