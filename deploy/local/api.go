package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// api talks to the cluster's API server as its administrator.
type api struct {
	base   string
	client *http.Client
}

func (c *cluster) api() (*api, error) {
	pair, err := tls.LoadX509KeyPair(c.path("pki", "admin.crt"), c.path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{
		TLSClientConfig:     &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
		TLSHandshakeTimeout: 3 * time.Second,
	}
	return &api{base: c.apiServer(), client: &http.Client{Transport: transport}}, nil
}

// get reads path into value, or, if value is nil, only makes sure that it is
// there.
func (a *api) get(ctx context.Context, path string, value any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base+path, nil)
	if err != nil {
		return err
	}
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 16<<20))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %.300s", path, response.Status, body)
	}
	if value == nil {
		return nil
	}
	return json.Unmarshal(body, value)
}

// condition is one of an object's conditions.
type condition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

// object is what is read of Nodes and Deployments.
type object struct {
	Metadata struct {
		Name       string `json:"name"`
		Generation int64  `json:"generation"`
	} `json:"metadata"`
	Spec struct {
		PodCIDRs []string `json:"podCIDRs"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration int64       `json:"observedGeneration"`
		Conditions         []condition `json:"conditions"`
	} `json:"status"`
}

// is fails unless a condition of the object is True.
func (o object) is(kind string) error {
	for _, c := range o.Status.Conditions {
		if c.Type == kind {
			if c.Status == "True" {
				return nil
			}
			return fmt.Errorf("%s is not %s: %s", o.Metadata.Name, kind, c.Message)
		}
	}
	return fmt.Errorf("%s does not say whether it is %s", o.Metadata.Name, kind)
}

// podCIDRs are the ranges of pod addresses that the node was given.
func (a *api) podCIDRs(ctx context.Context, n node) ([]string, error) {
	var o object
	if err := a.get(ctx, "/api/v1/nodes/"+n.name(), &o); err != nil {
		return nil, err
	}
	if len(o.Spec.PodCIDRs) == 0 {
		return nil, fmt.Errorf("node %s has been given no range of pod addresses", n.name())
	}
	return o.Spec.PodCIDRs, nil
}

func (a *api) nodeReady(ctx context.Context, n node) error {
	var o object
	if err := a.get(ctx, "/api/v1/nodes/"+n.name(), &o); err != nil {
		return err
	}
	return o.is("Ready")
}

func (a *api) deploymentAvailable(ctx context.Context, namespace, name string) error {
	var o object
	if err := a.get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, &o); err != nil {
		return err
	}
	if o.Status.ObservedGeneration < o.Metadata.Generation {
		return fmt.Errorf("%s: its controller has not seen it yet", name)
	}
	return o.is("Available")
}
