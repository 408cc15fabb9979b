// Package provider makes Kubernetes pods into leases. It presents a virtual
// node, takes the pods that the scheduler binds to it, resolves what they
// refer to, asks the warm pool for a home for each (see [Leases]) and writes
// back the status that a kubelet would. It is the only package that knows
// Kubernetes.
//
// What decides is without I/O: a pod's assignment or the reason why there is
// none (function.go), its status (status.go), its revision (revision.go), its
// code as a bundle (bundle.go).
//
// Towards Kubernetes the provider is the node itself, system:node:<name>, with
// a certificate of its own, so that NodeAuthorizer and NodeRestriction confine
// it to its own pods and what they refer to. Its ServiceAccount only obtains
// that certificate and does what a node may not: review tokens, keep the CA
// and count the control plane's generations. README.md lists the rights.
package provider
