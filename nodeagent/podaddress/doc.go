// Package podaddress makes a node answer on function pods' addresses.
//
// Function pods share a CIDR, in a dual-stack cluster one of each family, and every
// node owns the whole of it: a route of type local leads each of its addresses, on
// every port, into the node's own network stack (AnyIP). Which listening socket then
// gets a connection is decided by a BPF sk_lookup program on the node's network
// namespace:
//
//	address not assigned                 dropped; the client sees a reset
//	assigned, a container active here    the container's own listening socket
//	assigned otherwise                   the agent's listener
//
// UDP to the CIDR is dropped. The program fails closed: a host's service on a
// wildcard address (the kubelet, say) never answers on a function pod's address,
// because every lookup inside the CIDR ends in the program. To keep it so the
// link that attaches the program is pinned to a bpffs before the route is added,
// and goes after it.
//
// The decision is kept in two maps, pinned beside the link, that outlive the
// agent: the set of assigned addresses, and a SOCKHASH from (address, bucket) to
// a listening socket. The agent's listener is a single entry, under the zero
// address; a pod without an entry of its own falls back to it. So parking is one
// deletion, a container that dies takes its entry with it and the next connection
// reaches the agent, and a restarted agent takes all parked pods over with one
// update. Buckets spread an address's connections over several sockets, by the
// client's port; with one socket there is one bucket. Keys hold sixteen bytes of address, IPv4
// in its IPv6-mapped form.
//
// A kernel without sk_lookup gets a table of nftables rules instead, which lead
// connections by tproxy (see tproxy_rules.go). What is assigned and directed is in
// the table's sets, which outlive the agent as the maps do. The promises are the
// same, and so are the tests; but rules can be flushed, and until Reconcile has them
// back the node's own services answer on functions' addresses. A change takes a
// transaction: 0.3 ms to direct an address, some 10 ms to park it, in place of 10 µs.
//
// Connections that are already established are untouched by any of this: the
// kernel asks the program only when it looks for a listener. Pings to any address
// of the CIDR are answered by the node itself.
package podaddress
