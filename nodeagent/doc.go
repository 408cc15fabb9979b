// Package nodeagent is the agent of one node: it keeps containers warm, leases
// them to the function pods it is home to, parks pods that nobody calls, and
// answers for every function pod address on its node.
//
// How a request finds its function here:
//
//	gateway ──▶ data listener ─────┐
//	                               ├─▶ pod.lease ─▶ container's own socket
//	pod address ─▶ pod listener ───┘      │
//	                                      └─ parked: take a warm container from
//	                                         the pool, mount, load, then go on
//
// The files, from the inside out:
//
//	assignment.go  what the control plane may assign, as values
//	lifecycle.go   one pod's state: decisions without I/O
//	usage.go       whether an instance is idle: decisions without I/O
//	compiled.go    what V8 has compiled of functions, kept for the next time
//	volumes.go     the folders and files a pod mounts
//	warm.go        a warm container and everything that belongs to it
//	watchdog.go    whether a function blocks its event loop: decisions without I/O
//	stuck.go       where a function is that blocks its event loop
//	instance.go    a leased container and how it ends
//	failure.go     why a container ended or a pod is not ready, in words
//	fate.go        what those are told whose requests a container cut off
//	pod.go         one pod: who waits, what serves it
//	activate.go    from parked to active
//	park.go        from active to parked
//	pods.go        the pods this agent is home to; epochs
//	addresses.go   which listener answers for which pod address
//	datapath.go    the two HTTP listeners
//	elsewhere.go   requests for the addresses of other agents' pods
//	orphans.go     connections that an ended container left in its queue
//	quarantine.go  ports of ended leases, until nobody believes in them
//	output.go      what a container writes, on its way into the pod's log
//	snapshot.go    the assignments on disk
//	keeping.go     what the supervisor is told, to outlive this process
//	adopt.go       containers that an earlier process has left
//	resume.go      pods that it was home to
//	stock.go       the pools of warm containers
//	node.go        what is set up on the node, in which order
//	outbox.go      what the control plane is still to be told
//	controlplane.go the gRPC edge
//	streams.go     what the control plane wants of this agent: logs, and
//	inquiry.go     one of its streams into a pod, which holds a container
//	exec.go        a program in the pod's container
//	attach.go      what the pod's container writes
//	forward.go     a connection to a port of the pod
//	measure.go     what everything uses
//	meter.go       what a pod's containers use, over all of them
//	metrics.go     the Prometheus edge
//	agent.go       what starts and stops in which order
//
// A request never waits for the control plane: everything up to the answer
// happens in this process and the container (invariant I3).
package nodeagent
