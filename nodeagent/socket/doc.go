// Package socket opens the listening sockets that containers inherit.
//
// A container's socket lives in the node's own network namespace: the agent
// opens it before the container starts and passes it in as a file descriptor,
// so a request goes straight into the function's process with no proxy between.
// The price is that native code in a container holds a socket of the node. Two
// things keep that from becoming a way out:
//
//   - every socket carries a reserved bit of SO_MARK. Accepted sockets inherit
//     it, and clearing it takes CAP_NET_ADMIN in the node's network namespace,
//     which no container has;
//   - an nftables table of our own (Rules) drops what such a socket must never
//     send: the first segment of a connection of its own, and the answer to a
//     connection made to anything but a port of the range or a function pod's
//     address.
//
// The rules stand before the first socket is opened: a Range, the only thing
// that opens sockets, installs them itself.
package socket
