package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"sanfran.dev/internal/process"
	"sanfran.dev/internal/supervisor"
	"sanfran.dev/nodeagent"
	"sanfran.dev/nodeagent/network"
	"sanfran.dev/nodeagent/podaddress"
	"sanfran.dev/provider"
)

type agentOptions struct {
	log           logFlags
	connection    connectionFlags
	nodeIPs       []string
	podCIDRs      []string
	networkCIDRs  []string
	podAddresses  string
	runtimesDir   string
	runtimes      map[string]string
	healthAddress string
	supervisorFD  int
	config        nodeagent.Config
}

func newAgentCommand() *cobra.Command {
	var o agentOptions
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent of a node: warm containers and the functions in them",
		Long: `Run the agent of one node. It needs root, crun (or runc), a bpffs and the node's own network.

This process is the agent's supervisor: it starts the agent proper as its child,
and again when that crashes, and keeps its listening sockets and containers
meanwhile. Told to end, it passes the signal on and ends with the child.

From a checkout, in place of a cluster's agent of a node: run it in that node's
network namespace, with --token-file the output of "kubectl create token",
--audience sanfran, for the agent's ServiceAccount, bound to the agent's pod on
that node (--bound-object-kind Pod --bound-object-name …): the certificate, and so
the agent, speaks for the node of that pod. --ca-file is the key ca.crt of
SanFran's CA ConfigMap, --control-plane-name <service>.<namespace>.svc.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.supervisorFD == 0 {
				return o.supervise()
			}
			return o.run(cmd.Context())
		},
	}
	o.log.add(cmd)
	o.connection.add(cmd)
	flags, c := cmd.Flags(), &o.config
	flags.StringVar(&c.NodeName, "node-name", "", "Kubernetes node the agent runs on (required)")
	flags.StringSliceVar(&o.nodeIPs, "node-ip", nil, "the node's own IPv4 address, and its IPv6 address behind a comma, in any order (required)")
	flags.StringVar(&c.WorkDir, "work-dir", "/run/sanfran", "folder of the agent's own; every user must be able to pass through it")
	flags.StringVar(&c.CacheDir, "cache-dir", "", "folder of the agent's own on a disk, for what can be made again (default: a folder in --work-dir)")
	flags.Int64Var(&c.CompileCacheBytes, "compile-cache-bytes", 512<<20, "most that V8's compiled code of all functions takes in --cache-dir")
	flags.StringVar(&c.BundleDir, "bundle-dir", "", "folder of functions' code, kept over restarts (default: bundles in --cache-dir)")
	flags.Int64Var(&c.BundleBytes, "bundle-bytes", 4<<30, "most that functions' code takes in --bundle-dir; what pods do not use goes first, what they use stays")
	flags.StringVar(&c.PinDir, "bpf-dir", "/sys/fs/bpf/sanfran", "folder of the agent's own on a bpffs")
	flags.StringVar(&c.OCIRuntime, "oci-runtime", "crun", "what makes the containers: crun or runc, a path or a name on PATH")
	flags.StringVar(&o.runtimesDir, "runtimes-dir", "/usr/share/sanfran/rootfs", "folder of root filesystems, one folder each, named by its runtime")
	flags.StringToStringVar(&o.runtimes, "runtime", nil, "name=folder of a single root filesystem, in place of --runtimes-dir; may be given several times")
	flags.StringSliceVar(&o.podCIDRs, "pod-cidr", []string{"10.245.0.0/16"}, "range of function pods' addresses, and one of IPv6 behind a comma")
	flags.StringSliceVar(&o.networkCIDRs, "network-cidr", nil, "range of the containers' own network on this node (default: the agent's choice), and one of IPv6 behind a comma (default: none)")
	flags.StringVar(&o.podAddresses, "pod-addresses", string(podaddress.Auto), "how connections to function pods' addresses are led: sk_lookup (BPF), tproxy (nftables), or auto: sk_lookup where the kernel has it")
	flags.Uint16Var(&c.DataPort, "data-port", 7070, "port for requests from gateways and other agents")
	flags.Uint16Var(&c.PodPort, "pod-address-port", 7071, "port where connections to parked pods' addresses are led")
	flags.StringVar(&o.healthAddress, "health-address", ":7072", "host:port of /healthz, /readyz and /metrics")
	flags.IntVar(&c.PoolTarget, "pool-target", 2, "warm containers of the default runtime to keep until the control plane says otherwise")
	flags.IntVar(&c.PoolUnused, "pool-unused", 1, "the same of each other runtime")
	flags.Int64Var(&c.Capacity.MilliCPU, "milli-cpu", 0, "what this node gives to the agent and all functions together, in thousandths of a CPU (0: what the agent's control group has)")
	flags.Int64Var(&c.Capacity.MemoryBytes, "memory-bytes", 0, "what this node gives to the agent and all functions together, in bytes of memory (0: what the agent's control group has)")
	flags.Int64Var(&c.Reserve.MilliCPU, "reserve-milli-cpu", 200, "what the agent keeps of --milli-cpu for itself; the control plane is told the rest")
	flags.Int64Var(&c.Reserve.MemoryBytes, "reserve-memory-bytes", 192<<20, "what the agent keeps of --memory-bytes for itself; the control plane is told the rest")
	flags.Int64Var(&c.PidsLimit, "pod-pids-limit", 512, "most processes and threads together of a function pod's container")
	flags.Uint32Var(&c.Connections, "connections", network.DefaultConnections, "most connections of its own that a container may have at a time")
	flags.Uint32Var(&c.NewConnections, "new-connections", network.DefaultNewConnections, "most that it may begin in a second in the long run")
	flags.IntVar(&c.ClientConnections, "client-connections", 0, "most connections of clients to parked and remote pods' addresses at a time, and half of the most of gateways and other agents (0: one for each 128 KiB of --reserve-memory-bytes)")
	flags.Int64Var(&c.Capacity.Pods, "max-pods", 10000, "how many function pods this node takes")
	flags.StringVar(&c.Logs.Dir, "pod-log-dir", "", "folder of functions' logs, kept over restarts (default: logs in --work-dir)")
	flags.Int64Var(&c.Logs.MaxFileBytes, "pod-log-max-file-bytes", 10<<20, "when the next file of a pod's log is begun, in bytes")
	flags.IntVar(&c.Logs.MaxFiles, "pod-log-max-files", 5, "how many files a pod's log has at most, for the present and for the previous container each")
	flags.Int64Var(&c.Logs.Budget, "pod-log-budget-bytes", 4<<30, "what all logs on this node may take, in bytes; beyond it the greatest loses its oldest file")
	flags.DurationVar(&c.EndpointSettle, "endpoint-settle", 2*time.Second, "how long nothing new must have come to a pod that is deleted before it is taken out of service; 0: it ends at once")
	flags.DurationVar(&c.EventLoopLimit, "event-loop-limit", 30*time.Second, "how long a function may keep its event loop from running before its container is ended; 0: for ever")
	flags.StringVar(&c.CgroupBase, "cgroup", "", "control group to make the containers' under (default: the agent's own)")
	flags.IntVar(&o.supervisorFD, "supervisor-fd", 0, "descriptor that leads to the supervisor, which sets it")
	must(flags.MarkHidden("supervisor-fd"))
	must(cmd.MarkFlagRequired("node-name"))
	must(cmd.MarkFlagRequired("node-ip"))
	return cmd
}

// supervise runs the agent proper, this program with the same flags, and ends the
// process when it has ended for good.
func (o *agentOptions) supervise() error {
	log, err := o.log.logger()
	if err != nil {
		return err
	}
	// What can be seen to be wrong needs no second process to say so.
	if err := o.complete(); err != nil {
		return err
	}
	if _, err := o.connection.host(); err != nil {
		return err
	}
	code, err := supervisor.Run(supervisor.Config{
		// Whatever has become of the file since, it is the same program.
		Path: "/proc/self/exe", Args: append(slices.Clone(os.Args), fmt.Sprintf("--supervisor-fd=%d", supervisor.FD)),
		Log: log.With("process", "supervisor", "node", o.config.NodeName),
	})
	if err != nil {
		return err
	}
	os.Exit(code)
	return nil
}

func (o *agentOptions) run(ctx context.Context) (err error) {
	log, err := o.log.logger()
	if err != nil {
		return err
	}
	log = log.With("process", "agent", "node", o.config.NodeName)
	if err := o.complete(); err != nil {
		return err
	}
	o.config.Log = log
	ctx, cancel := process.WithSignals(ctx)
	defer cancel()
	if o.config.Supervisor, err = supervisor.Open(o.supervisorFD); err != nil {
		return fmt.Errorf("--supervisor-fd: %w", err)
	}

	control, err := o.connection.open(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.close()) }()
	var traces *process.Part
	if o.config.Tracer, traces, err = tracing(ctx, log, "sanfran-agent"); err != nil {
		return err
	}
	var telling []process.Part // goes on until the last request has ended
	if traces != nil {
		telling = append(telling, *traces)
	}
	agent, err := nodeagent.New(o.config, control.Conn)
	if err != nil {
		return err
	}
	health, err := o.config.Supervisor.Listener("listener/health", func() (net.Listener, error) {
		return listen(ctx, "--health-address", o.healthAddress)
	})
	if err != nil {
		return err
	}
	log.Info("the agent starts", "version", version, "runtimes", o.config.Runtimes)
	return process.Run(ctx, log, nil,
		process.Group{Name: "health", Parts: []process.Part{process.ServeHTTP("health", health, agent.Handler(), time.Second)}},
		process.Group{Name: "telling", Parts: telling},
		process.Group{Name: "identity", Parts: []process.Part{control.Identity}},
		process.Group{Name: "agent", StopWithin: 75 * time.Second, Parts: []process.Part{{Name: "agent", Run: agent.Run}}},
	)
}

// complete parses the flags that are more than words and numbers.
func (o *agentOptions) complete() (err error) {
	if o.config.NodeIP, o.config.NodeIP6, err = bothFamilies(o.nodeIPs, netip.ParseAddr, netip.Addr.Is4); err != nil {
		return fmt.Errorf("--node-ip: %w", err)
	}
	o.config.PodAddresses = podaddress.Way(o.podAddresses)
	o.config.DefaultRuntime = provider.DefaultRuntime
	if o.config.PodCIDR, o.config.PodCIDR6, err = bothFamilies(o.podCIDRs, netip.ParsePrefix, isPrefix4); err != nil {
		return fmt.Errorf("--pod-cidr: %w", err)
	}
	if o.config.ContainerCIDR, o.config.ContainerCIDR6, err = bothFamilies(o.networkCIDRs, netip.ParsePrefix, isPrefix4); err != nil {
		return fmt.Errorf("--network-cidr: %w", err)
	}
	if o.config.EndpointSettle == 0 {
		o.config.EndpointSettle = -1 // there, 0 is the default
	}
	if o.config.EventLoopLimit == 0 {
		o.config.EventLoopLimit = -1 // there, 0 is the default
	}
	o.config.Runtimes = o.runtimes
	if len(o.runtimes) == 0 {
		o.config.Runtimes, err = findRuntimes(o.runtimesDir)
	}
	return err
}

// findRuntimes returns the root filesystems in dir by their folders' names.
func findRuntimes(dir string) (map[string]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("--runtimes-dir: %w; name single root filesystems by --runtime", err)
	}
	runtimes := make(map[string]string)
	for _, e := range entries {
		if e.IsDir() {
			runtimes[e.Name()] = filepath.Join(dir, e.Name())
		}
	}
	if len(runtimes) == 0 {
		return nil, fmt.Errorf("--runtimes-dir: %s holds no root filesystem", dir)
	}
	return runtimes, nil
}
