package provider

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	goruntime "runtime"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/node"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// LabelVirtualNode is the label and the taint of every virtual node of one
// installation; pods choose them by it when there is more than one.
const LabelVirtualNode = "sanfran.dev/virtual-node"

// nodeLeaseSeconds is what a kubelet has; it is renewed every quarter.
const nodeLeaseSeconds = 40

// nodeStatusEvery is how soon a deleted node comes back. The garbage collector
// takes the pods of a node that is away for 40 s.
const nodeStatusEvery = 10 * time.Second

// virtualNode is the node that the scheduler and users see.
type virtualNode struct {
	name string
	// group is the value of LabelVirtualNode.
	group   string
	address netip.Addr
	port    int32
	version string
	maxPods int64
	// since is when the process began to speak for the node.
	since  time.Time
	labels map[string]string
}

// object is the node with what the agents give, and how their pools are. Labels are
// those NodeRestriction lets a node set on itself, so there is no node-role.
func (v virtualNode) object(capacity *agentv1.Capacity, pools corev1.NodeCondition) *corev1.Node {
	labels := map[string]string{
		corev1.LabelHostname:               v.name,
		corev1.LabelOSStable:               goruntime.GOOS,
		corev1.LabelArchStable:             goruntime.GOARCH,
		corev1.LabelNodeExcludeBalancers:   "true",
		"type":                             "virtual-kubelet",
		LabelVirtualNode:                   v.group,
		"node.kubernetes.io/instance-type": "sanfran",
	}
	maps.Copy(labels, v.labels)
	resources := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(capacity.GetMilliCpu(), resource.DecimalSI),
		corev1.ResourceMemory:           *resource.NewQuantity(capacity.GetMemoryBytes(), resource.BinarySI),
		corev1.ResourcePods:             *resource.NewQuantity(min(capacity.GetPods(), v.maxPods), resource.DecimalSI),
		corev1.ResourceEphemeralStorage: *resource.NewQuantity(0, resource.BinarySI),
	}
	at := metav1.NewTime(v.since)
	conditions := []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "SanFran's control plane takes pods"},
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientMemory", Message: "agents have memory of their own"},
		{Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasNoDiskPressure", Message: "no pods' files are kept on this node"},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse, Reason: "KubeletHasSufficientPID", Message: "no pods' processes run on this node"},
		{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, Reason: "RouteCreated", Message: "agents answer for function pods' addresses on every node"},
	}
	for i := range conditions {
		conditions[i].LastHeartbeatTime, conditions[i].LastTransitionTime = at, at
	}
	conditions = append(conditions, pools)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: v.name, Labels: labels, Annotations: map[string]string{}},
		Spec: corev1.NodeSpec{
			ProviderID: "sanfran://" + v.name,
			Taints:     []corev1.Taint{{Key: LabelVirtualNode, Value: v.group, Effect: corev1.TaintEffectNoSchedule}},
		},
		Status: corev1.NodeStatus{
			Capacity:    resources,
			Allocatable: resources.DeepCopy(),
			Conditions:  conditions,
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeInternalIP, Address: v.address.String()},
				{Type: corev1.NodeHostName, Address: v.name},
			},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: v.port}},
			NodeInfo: corev1.NodeSystemInfo{
				KubeletVersion: v.version, OperatingSystem: goruntime.GOOS, Architecture: goruntime.GOARCH,
				OSImage: "SanFran", ContainerRuntimeVersion: "sanfran://1",
			},
		},
	}
}

// nodeUpdates tells the node controller of changed capacity and pools. It
// implements node.NodeProvider.
type nodeUpdates struct {
	virtual virtualNode
	leases  Leases
	notify  func(*corev1.Node)
	started chan struct{}
	// told is the condition of the pools as it was told last. It is run's own
	// after the node has been made.
	told corev1.NodeCondition
}

// node is the node as it is now.
func (n *nodeUpdates) node(capacity *agentv1.Capacity) *corev1.Node {
	n.told = warmth(n.leases.Pools(), n.told, time.Now())
	return n.virtual.object(capacity, n.told)
}

// Ping says that the process lives; the lease must not hang on anything else.
func (*nodeUpdates) Ping(ctx context.Context) error { return ctx.Err() }

// NotifyNodeStatus takes the controller's callback.
func (n *nodeUpdates) NotifyNodeStatus(_ context.Context, notify func(*corev1.Node)) {
	n.notify = notify
	close(n.started)
}

// run tells every change of capacity at once, and of the pools every
// nodeStatusEvery, until ctx ends.
func (n *nodeUpdates) run(ctx context.Context) {
	select {
	case <-n.started:
	case <-ctx.Done():
		return
	}
	look := time.NewTicker(nodeStatusEvery)
	defer look.Stop()
	for {
		capacity, changed := n.leases.Capacity()
		now := n.node(capacity)
		told := make(chan struct{})
		// The callback blocks for ever when the controller ends at the wrong
		// moment; then this goroutine stays behind, with the process at its end.
		go func() {
			defer close(told)
			n.notify(now)
		}()
		for told != nil || changed != nil {
			select {
			case <-told:
				told = nil
			case <-changed:
				changed = nil
			case <-look.C:
				if !sameWarmth(n.told, warmth(n.leases.Pools(), n.told, time.Now())) {
					changed = nil
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

// runNode registers the node, renews its lease and keeps its status until ctx
// ends. The client should be one that nothing else queues on.
func runNode(ctx context.Context, client kubernetes.Interface, virtual virtualNode, leases Leases, log *slog.Logger) error {
	updates := &nodeUpdates{virtual: virtual, leases: leases, started: make(chan struct{})}
	capacity, _ := leases.Capacity()
	first := updates.node(capacity)
	nodes := client.CoreV1().Nodes()
	controller, err := node.NewNodeController(updates, first, nodes,
		node.WithNodeStatusUpdateInterval(nodeStatusEvery),
		node.WithNodeEnableLeaseV1(client.CoordinationV1().Leases(corev1.NamespaceNodeLease), nodeLeaseSeconds),
		node.WithNodeStatusUpdateErrorHandler(func(ctx context.Context, cause error) error {
			if !apierrors.IsNotFound(cause) {
				return cause
			}
			log.Warn("the node was deleted; it is registered again", "node", virtual.name)
			capacity, _ := leases.Capacity()
			_, err := nodes.Create(ctx, virtual.object(capacity, warmth(leases.Pools(), corev1.NodeCondition{}, time.Now())), metav1.CreateOptions{})
			return err
		}))
	if err != nil {
		return fmt.Errorf("prepare the node %s: %w", virtual.name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); updates.run(ctx) }()
	err = controller.Run(ctx)
	cancel()
	<-done
	if err != nil {
		return fmt.Errorf("register the node %s: %w", virtual.name, err)
	}
	return nil
}
