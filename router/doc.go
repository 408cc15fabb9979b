// Package router brings a request to its function.
//
// Three things make it up, each usable alone:
//
//   - [Table] is what is known of the function pods that answer and where they
//     do. [Watcher] keeps it current from the control plane's stream and keeps
//     a copy on disk, so that a gateway that restarts while the control plane
//     is away still knows its functions.
//   - [Forwarder] sends one request to one upstream and says, when that did not
//     work, whether it is certain that no function code saw the request.
//   - [Gateway] is the HTTP handler of /fn/<name>: it looks the function up, lets
//     the request in or not by the function's [Policy], picks a container that serves
//     it (or the home agent of a parked pod), waits in line if none has room, and
//     forwards.
//
// [Connections] bounds those of clients. The node agent uses it, Table and Forwarder
// for the pod addresses it terminates.
// Nothing here calls the control plane or Kubernetes while a request waits
// (invariant I3).
package router
