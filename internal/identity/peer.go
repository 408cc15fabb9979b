// Package identity gives SanFran's own processes their identities towards each
// other. The control plane keeps a certificate authority. An agent or gateway
// trades its pod's projected ServiceAccount token for a short certificate that
// names its role, node and pod, and presents that on every connection.
//
// A certificate says who someone is in its one URI name and nowhere else:
//
//	sanfran://agent/node/<node>/pod/<namespace>/<name>/<uid>
//
// Its holder has proved, by a token that Kubernetes bound to that very pod,
// that it runs there; a certificate outlives its pod by at most Lifetime.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Role is what a process may ask of the control plane.
type Role string

// The roles of processes that hold a client certificate.
const (
	RoleAgent   Role = "agent"
	RoleGateway Role = "gateway"
)

// Peer is who is at the other end of a connection. All fields are set.
type Peer struct {
	Role         Role
	Node         string // Kubernetes node
	PodNamespace string
	PodName      string
	PodUID       string
}

// ErrNoPeer says that a certificate does not name a peer.
var ErrNoPeer = errors.New("the certificate does not name a SanFran role")

const scheme = "sanfran"

// URI is the name of the peer in its certificate.
func (p Peer) URI() *url.URL {
	path := "/node/" + p.Node + "/pod/" + p.PodNamespace + "/" + p.PodName + "/" + p.PodUID
	return &url.URL{Scheme: scheme, Host: string(p.Role), Path: path}
}

// String is the peer's URI.
func (p Peer) String() string { return p.URI().String() }

// ParsePeer reads the peer out of a certificate that has been verified
// already. A certificate with several URI names, or one of another shape, is
// refused with ErrNoPeer.
func ParsePeer(cert *x509.Certificate) (Peer, error) {
	if len(cert.URIs) != 1 {
		return Peer{}, fmt.Errorf("%w: it has %d URI names, not one", ErrNoPeer, len(cert.URIs))
	}
	uri := cert.URIs[0]
	parts := strings.Split(uri.Path, "/")
	if uri.Scheme != scheme || len(parts) != 7 || parts[0] != "" || parts[1] != "node" || parts[3] != "pod" {
		return Peer{}, fmt.Errorf("%w: %q is not sanfran://<role>/node/<node>/pod/<namespace>/<name>/<uid>", ErrNoPeer, uri)
	}
	p := Peer{Role: Role(uri.Host), Node: parts[2], PodNamespace: parts[4], PodName: parts[5], PodUID: parts[6]}
	if err := p.validate(); err != nil {
		return Peer{}, err
	}
	return p, nil
}

func (p Peer) validate() error {
	if p.Role != RoleAgent && p.Role != RoleGateway {
		return fmt.Errorf("%w: unknown role %q", ErrNoPeer, p.Role)
	}
	for _, part := range []struct{ what, value string }{
		{"node", p.Node}, {"pod namespace", p.PodNamespace}, {"pod name", p.PodName}, {"pod uid", p.PodUID},
	} {
		if part.value == "" || strings.ContainsAny(part.value, "/?#%") {
			return fmt.Errorf("%w: its %s is %q", ErrNoPeer, part.what, part.value)
		}
	}
	return nil
}
