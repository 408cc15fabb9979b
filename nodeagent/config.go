package nodeagent

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"

	"sanfran.dev/internal/supervisor"
	"sanfran.dev/nodeagent/container"
	"sanfran.dev/nodeagent/logs"
	"sanfran.dev/nodeagent/podaddress"
)

// Config is what an agent can be told. NodeName, NodeIP, WorkDir and Runtimes
// are required; every other zero value has a default.
type Config struct {
	// NodeName is the Kubernetes node this agent runs on.
	NodeName string
	// NodeIP is the node's own IPv4 address: containers' sockets and the
	// agent's listeners are bound to it. NodeIP6 is its IPv6 address, if it has
	// one: the node calls function pods' IPv6 addresses from it.
	NodeIP, NodeIP6 netip.Addr
	// DataPort is where gateways and other agents send requests for this
	// agent's pods (default 7070). PodPort is where connections to function
	// pods' addresses are led that no container here answers (default 7071).
	DataPort, PodPort uint16
	// PodCIDR is the range of function pods' addresses (default 10.245.0.0/16),
	// PodCIDR6 that of their IPv6 addresses; zero: they have none.
	PodCIDR, PodCIDR6 netip.Prefix
	// PodAddresses is how connections to them are led to sockets (default:
	// whatever the kernel has).
	PodAddresses podaddress.Way
	// Runtimes are root filesystems by runtime name, e.g. "node24".
	Runtimes map[string]string
	// WorkDir is a folder of the agent's own. Every user must be able to pass
	// through it and its parents.
	WorkDir string
	// CacheDir is a folder of the agent's own, on a disk, for what can be made
	// again (default "cache" in WorkDir). CompileCacheBytes bounds what V8's
	// compiled code of all functions takes there (default 512 MiB).
	CacheDir          string
	CompileCacheBytes int64
	// BundleDir is a folder of the agent's own, on a disk, for functions' code; it
	// may outlive the agent (default "bundles" in CacheDir). BundleBytes bounds
	// what all code takes there (default 4 GiB).
	BundleDir   string
	BundleBytes int64
	// PinDir is a folder of the agent's own on a bpffs (default
	// /sys/fs/bpf/sanfran).
	PinDir string
	// OCIRuntime makes the containers: crun (the default) or runc, a path or a
	// name on PATH.
	OCIRuntime string
	// WorkerArgs is the program of a container and its arguments (default:
	// Node.js running /opt/sanfran/worker/start.js). The last is the worker's main
	// file; all of its folder is the worker.
	WorkerArgs []string
	// CgroupBase is the control group to make those of the containers under;
	// empty: the agent's own.
	CgroupBase string
	// Bridge and ContainerCIDR name the containers' network; empty: the
	// defaults of package network. ContainerCIDR6 is their IPv6 range; zero: they
	// have no IPv6.
	Bridge                        string
	ContainerCIDR, ContainerCIDR6 netip.Prefix
	// Tracer makes a span of each request that comes to a function pod's address by this
	// agent; nil: none are made.
	Tracer trace.Tracer
	// Connections and NewConnections bound the connections that a container begins,
	// at a time and in a second; 0: the defaults of package network.
	Connections, NewConnections uint32

	// PoolTarget is how many warm containers of the default runtime to keep until
	// the control plane says otherwise (default 2), PoolUnused how many of each
	// other.
	PoolTarget, PoolUnused int
	// DefaultRuntime is the one that most pods will be of; empty: all count as it.
	DefaultRuntime string
	// DefaultLimits are those of a pod that has none of its own (default one
	// processor and 512 MiB). Without any, a container would keep the low
	// weight it was warmed with.
	DefaultLimits container.Resources
	// Capacity is what this node gives to the agent and all functions together;
	// fields that are 0 are not known, and limited by the agent's control group
	// alone. The control plane is told what is left of it for functions.
	Capacity Capacity
	// Reserve is what the agent keeps of it for itself (default a fifth of a
	// processor and 192 MiB): functions cannot take that, whatever they do.
	Reserve container.Resources
	// PidsLimit is how many processes and threads together a container may have
	// (default 512).
	PidsLimit int64

	// ClientConnections is how many connections to parked and remote pods' addresses
	// may be open at a time (default: one for each 128 KiB of Reserve's memory). Of
	// gateways and other agents there may be twice as many.
	ClientConnections int

	// BootTimeout bounds the start of a container until its worker is warm
	// (default 30 s), LoadTimeout the loading of a function (default 10 s).
	BootTimeout, LoadTimeout time.Duration
	// EventLoopLimit is how long a function may keep its event loop from
	// running before its container is ended (default 30 s; below 0: for ever).
	EventLoopLimit time.Duration
	// QueueLength is how many requests may wait for one pod to become active
	// (default 1000), QueueTimeout how long each does (default 30 s).
	QueueLength  int
	QueueTimeout time.Duration
	// AwayWait is how long a request for the address of a pod of another agent waits
	// for that agent, or for the pod to get another home (default 10 s). No more than
	// QueueLength do, for all pods together.
	AwayWait time.Duration
	// DrainGrace is how long requests in flight may go on when a container is
	// taken out of service by the agent's own decision (default 30 s).
	DrainGrace time.Duration
	// HandoverGrace is how long a stopping agent waits at the most for others to
	// take its pods, which it serves meanwhile (default 20 s).
	HandoverGrace time.Duration
	// StopGrace is how long requests in flight may go on when the agent stops
	// after that (default 20 s).
	StopGrace time.Duration
	// RouteSettle is how long a container that has finished its work goes on
	// refusing requests before it is destroyed (default 1 s): longer than a
	// route's withdrawal takes to reach the routers.
	RouteSettle time.Duration
	// EndpointSettle is how long nothing new must have come to a pod that Kubernetes
	// deletes before it is taken out of service (default 2 s; below 0: at once):
	// longer than kube-proxy takes to hear of a deletion.
	EndpointSettle time.Duration
	// PortRest is how long the port of an ended lease is given to nobody
	// (default 10 min): longer than any router may believe in the lease.
	PortRest time.Duration

	// Logs is how much functions' logs may take, and where they are (default: the
	// folder logs in WorkDir).
	Logs logs.Options

	// Supervisor keeps what is to outlive this process; nil: nothing does.
	Supervisor *supervisor.Client

	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// Capacity is a node's share for functions.
type Capacity struct {
	MilliCPU, MemoryBytes, Pods int64
}

// leastPids is what Node.js with its threads and a child process or two need.
const leastPids = 32

// connectionBytes is what each connection of a client counts for: twice what one takes
// that streams both ways, the most.
const connectionBytes = 128 << 10

func (c Config) withDefaults() Config {
	setIfZero(&c.DataPort, 7070)
	setIfZero(&c.PodPort, 7071)
	setIfZero(&c.PodCIDR, netip.MustParsePrefix("10.245.0.0/16"))
	setIfZero(&c.PinDir, "/sys/fs/bpf/sanfran")
	setIfZero(&c.OCIRuntime, "crun")
	setIfZero(&c.CacheDir, filepath.Join(c.WorkDir, "cache"))
	setIfZero(&c.CompileCacheBytes, 512<<20)
	setIfZero(&c.BundleDir, filepath.Join(c.CacheDir, "bundles"))
	setIfZero(&c.BundleBytes, 4<<30)
	setIfZero(&c.PoolTarget, 2)
	if c.DefaultRuntime == "" {
		c.PoolUnused = c.PoolTarget
	}
	setIfZero(&c.DefaultLimits.MilliCPU, 1000)
	setIfZero(&c.DefaultLimits.MemoryBytes, 512<<20)
	setIfZero(&c.Reserve.MilliCPU, 200)
	setIfZero(&c.Reserve.MemoryBytes, 192<<20)
	setIfZero(&c.ClientConnections, int(c.Reserve.MemoryBytes/connectionBytes))
	setIfZero(&c.PidsLimit, 512)
	setIfZero(&c.BootTimeout, 30*time.Second)
	setIfZero(&c.LoadTimeout, 10*time.Second)
	setIfZero(&c.EventLoopLimit, 30*time.Second)
	setIfZero(&c.QueueLength, 1000)
	setIfZero(&c.QueueTimeout, 30*time.Second)
	setIfZero(&c.AwayWait, 10*time.Second)
	setIfZero(&c.DrainGrace, 30*time.Second)
	setIfZero(&c.HandoverGrace, 20*time.Second)
	setIfZero(&c.StopGrace, 20*time.Second)
	setIfZero(&c.RouteSettle, time.Second)
	setIfZero(&c.EndpointSettle, 2*time.Second)
	setIfZero(&c.PortRest, 10*time.Minute)
	if c.WorkerArgs == nil {
		// Or Node.js would write into the function's log when its inspector is
		// opened, to find out where a function is stuck.
		c.WorkerArgs = []string{"/usr/local/bin/node", "--inspect-publish-uid=http", "/opt/sanfran/worker/start.js"}
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	setIfZero(&c.Logs.Dir, filepath.Join(c.WorkDir, "logs"))
	c.Logs.Log = c.Log
	return c
}

func setIfZero[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) validate() error {
	switch {
	case c.NodeName == "":
		return errors.New("agent: no node name")
	case !c.NodeIP.Is4() || c.NodeIP.IsUnspecified():
		return fmt.Errorf("agent: node IP %v: give the node's own IPv4 address", c.NodeIP)
	case c.NodeIP6.IsValid() && !c.NodeIP6.Is6():
		return fmt.Errorf("agent: node's second IP %v: give its IPv6 address", c.NodeIP6)
	case c.PodCIDR6.IsValid() && !c.PodCIDR6.Addr().Is6():
		return fmt.Errorf("agent: second range of function pods' addresses %v: give one of IPv6", c.PodCIDR6)
	case !filepath.IsAbs(c.WorkDir):
		return fmt.Errorf("agent: work directory %q: give an absolute path", c.WorkDir)
	case !filepath.IsAbs(c.CacheDir):
		return fmt.Errorf("agent: cache directory %q: give an absolute path", c.CacheDir)
	case c.CompileCacheBytes < 0:
		return fmt.Errorf("agent: %d bytes for compiled code: give a positive number", c.CompileCacheBytes)
	case !filepath.IsAbs(c.BundleDir):
		return fmt.Errorf("agent: bundle directory %q: give an absolute path", c.BundleDir)
	case c.BundleBytes < 0:
		return fmt.Errorf("agent: %d bytes for bundles: give a positive number", c.BundleBytes)
	case len(c.Runtimes) == 0:
		return errors.New("agent: no runtime: give at least one name and root filesystem")
	case c.EventLoopLimit > 0 && c.EventLoopLimit < 100*time.Millisecond:
		return fmt.Errorf("agent: event loop limit %v: give at least 100ms, or a negative one for none", c.EventLoopLimit)
	case c.Capacity.MilliCPU < 0 || c.Capacity.MemoryBytes < 0 || c.Reserve.MilliCPU < 0 || c.Reserve.MemoryBytes < 0:
		return fmt.Errorf("agent: capacity %+v, reserve %dm and %d bytes: give no negative numbers", c.Capacity, c.Reserve.MilliCPU, c.Reserve.MemoryBytes)
	case c.ClientConnections < 1:
		return fmt.Errorf("agent: at most %d connections of clients: give at least 1, or reserve more than %d bytes", c.ClientConnections, c.Reserve.MemoryBytes)
	case c.PidsLimit < leastPids:
		return fmt.Errorf("agent: at most %d processes and threads in a container: Node.js itself needs %d", c.PidsLimit, leastPids)
	case c.DataPort == c.PodPort:
		return fmt.Errorf("agent: data port and pod port are both %d; give two", c.DataPort)
	}
	for name, root := range c.Runtimes {
		if name == "" || !filepath.IsAbs(root) {
			return fmt.Errorf("agent: runtime %q: root filesystem %q: give a name and an absolute path", name, root)
		}
	}
	return nil
}

// parent is the parent of the containers' first processes; nil: this process.
func (c Config) parent() container.Parent {
	if c.Supervisor == nil {
		return nil
	}
	return c.Supervisor
}

// limits are a pod's own where it has some.
func (c Config) limits(own container.Resources) container.Resources {
	setIfZero(&own.MilliCPU, c.DefaultLimits.MilliCPU)
	setIfZero(&own.MemoryBytes, c.DefaultLimits.MemoryBytes)
	return own
}

// podCIDRs are the ranges of function pods' addresses.
func (c Config) podCIDRs() []netip.Prefix {
	cidrs := []netip.Prefix{c.PodCIDR}
	if c.PodCIDR6.IsValid() {
		cidrs = append(cidrs, c.PodCIDR6)
	}
	return cidrs
}

// dataAddress is host:port of the data listener.
func (c Config) dataAddress() string {
	return c.NodeIP.String() + ":" + strconv.Itoa(int(c.DataPort))
}
