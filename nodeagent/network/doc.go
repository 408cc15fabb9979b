// Package network makes the network namespaces of containers ahead of need.
//
// A container's namespace has one interface, eth0, whose other end is a port of
// the node's bridge. Its connections leave the node under the node's address
// (masquerading). What it may reach is decided by an nftables table of our own,
// on the path into the node and through it:
//
//	function pods' addresses                yes, they are the node's own (AnyIP)
//	Services, by kube-proxy's translation   yes
//	cluster DNS                             yes
//	the world beyond the node               yes
//	the node itself, by any address         no
//	other containers of the bridge          no, also kept apart as isolated ports
//	cloud metadata, and ports of kubelets
//	and agents on any node                  no
//
// Nothing opens connections into a container this way: requests reach it through
// the listening socket it inherits (package socket). There is IPv6 on eth0 only where
// it was asked for and the node has some itself; it leaves the node under the node's
// address as IPv4 does.
//
// The table only narrows: another table's drop still drops. Open says so in the
// log where one would.
//
// The agent owns the namespaces, not the containers' user namespaces, so no
// process of a container has any capability over its network.
package network
