// Package warmpool keeps the cluster's books: which agents there are, which
// agent is home to which function pod, how large the agents' pools are to be,
// which routes lead to a pod, and the bundles agents fetch.
//
// Kubernetes owns which pods exist; warmpool is told of them by [Pool.Assign]
// and [Pool.Withdraw]. It owns which agent is a pod's home. Agents own their
// containers and report them. What is decided is decided without I/O in
// [Books]; bundles and the ledger are in [Store]; gRPC is in server.go.
package warmpool
