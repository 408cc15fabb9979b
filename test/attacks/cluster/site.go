package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sanfran.dev/test/attacks"
)

// patience bounds every wait for the cluster.
const patience = 90 * time.Second

// site is an installation in a cluster.
type site struct {
	gateway string
	client  *http.Client
	pods    map[string]bool
}

var _ attacks.Installation = (*site)(nil)

// namespace is a tenant's.
func namespace(tenant string) string { return "sanfran-attacks-" + tenant }

func kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// setUp makes the namespaces with the function that attacks, where an earlier
// run has left some anew.
func setUp(ctx context.Context, gateway string) (*site, error) {
	s := &site{gateway: gateway, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 100}}, pods: map[string]bool{}}
	bundle, err := attacks.Bundle(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sanfran-attacks-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	for name, content := range bundle {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return nil, err
		}
	}
	if err := tearDown(); err != nil {
		return nil, err
	}
	for _, tenant := range []string{attacks.Attacker, attacks.Victim} {
		if _, err := kubectl(ctx, "", "create", "namespace", namespace(tenant)); err != nil {
			return s, err
		}
		if _, err := kubectl(ctx, "", "wait", "-n", namespace(tenant), "--for=create", "serviceaccount/default", "--timeout=60s"); err != nil {
			return s, err
		}
		if _, err := kubectl(ctx, "", "create", "configmap", "attacks", "-n", namespace(tenant), "--from-file="+dir); err != nil {
			return s, err
		}
	}
	return s, nil
}

func tearDown() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	_, err := kubectl(ctx, "", "delete", "namespace", namespace(attacks.Attacker), namespace(attacks.Victim), "--ignore-not-found")
	return err
}

// facts is what can be known of the cluster. Ports are the defaults.
func (s *site) facts(ctx context.Context) (attacks.Facts, error) {
	addresses, err := kubectl(ctx, "", "get", "nodes", "-l", "!sanfran.dev/virtual-node", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		return attacks.Facts{}, err
	}
	var nodes []string
	for _, address := range strings.Fields(addresses) {
		if at, err := netip.ParseAddr(address); err == nil && at.Is4() {
			nodes = append(nodes, address)
		}
	}
	if len(nodes) == 0 {
		return attacks.Facts{}, fmt.Errorf("no node has an IPv4 InternalIP: %q", addresses)
	}
	api, err := kubectl(ctx, "", "get", "service", "kubernetes", "-n", "default", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}")
	if err != nil {
		return attacks.Facts{}, err
	}
	// The range of functions' addresses, by that of one.
	address, err := s.Deploy(ctx, attacks.Function{Tenant: attacks.Victim, Name: "first"})
	if err != nil {
		return attacks.Facts{}, err
	}
	if err := s.Remove(ctx, attacks.Victim, "first"); err != nil {
		return attacks.Facts{}, err
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Is4() {
		return attacks.Facts{}, fmt.Errorf("a function's address %q: %w", address, err)
	}
	last := at.Addr().As4()
	last[2], last[3] = 255, 254
	facts := attacks.Facts{
		NodeIP: nodes[0], Agent: nodes[0] + ":7070", AgentPods: nodes[0] + ":7071", Kubelet: nodes[0] + ":10250",
		Metadata: "169.254.169.254:80", NodeService: nodes[0] + ":10256" /* kube-proxy's health */, Loopback: "127.0.0.1:10248", /* the kubelet's */
		Bridge: "10.246.0.1:10250", Beyond: api, APIServer: api, Logs: "/var/lib/sanfran/logs", Unassigned: netip.AddrFrom4(last).String() + ":10250",
	}
	if len(nodes) > 1 {
		facts.OtherKubelet = nodes[1] + ":10250"
	}
	return facts, nil
}

// Deploy implements attacks.Installation.
func (s *site) Deploy(ctx context.Context, f attacks.Function) (string, error) {
	tenant, name := f.Tenant, f.Name
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("%s of %s does not answer after %v", name, tenant, patience))
	defer cancel()
	idleTimeout := "10m"
	if f.Idle {
		idleTimeout = "2s"
	}
	mounts, volumes := "", ""
	if f.Secret != "" {
		mounts = ", {name: own, mountPath: /own}, {name: secret, mountPath: /etc/secret}, {name: data, mountPath: /data}"
		volumes = fmt.Sprintf(", {name: own, configMap: {name: %[1]s}}, {name: secret, secret: {secretName: %[1]s}}, {name: data, emptyDir: {}}", name)
		if _, err := kubectl(ctx, "", "create", "configmap", name, "-n", namespace(tenant), "--from-literal=file="+f.Secret+"-bundle"); err != nil {
			return "", err
		}
		if _, err := kubectl(ctx, "", "create", "secret", "generic", name, "-n", namespace(tenant), "--from-literal=file="+f.Secret+"-secret"); err != nil {
			return "", err
		}
	}
	s.pods[tenant+"/"+name] = true
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: %[2]s
  annotations: {sanfran.dev/idle-timeout: %[3]s}
spec:
  nodeSelector: {kubernetes.io/hostname: sanfran}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - name: function
      image: sanfran/node:24
      ports: [{containerPort: 8080}]
      volumeMounts: [{name: code, mountPath: /function}%[4]s]
  volumes: [{name: code, configMap: {name: attacks}}%[5]s]
`, name, namespace(tenant), idleTimeout, mounts, volumes)
	if _, err := kubectl(ctx, manifest, "create", "-f", "-"); err != nil {
		return "", err
	}
	if _, err := kubectl(ctx, "", "wait", "-n", namespace(tenant), "--for=condition=Ready", "pod/"+name, "--timeout=90s"); err != nil {
		return "", err
	}
	ip, err := kubectl(ctx, "", "get", "pod", name, "-n", namespace(tenant), "-o", "jsonpath={.status.podIP}")
	if err != nil {
		return "", err
	}
	for { // the gateway hears of it on its own
		if status, body, err := s.Get(ctx, tenant, name, "/"); err == nil && status == http.StatusOK && string(body) == "here" {
			return ip + ":8080", nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// Remove implements attacks.Installation.
func (s *site) Remove(ctx context.Context, tenant, name string) error {
	if !s.pods[tenant+"/"+name] {
		return nil
	}
	delete(s.pods, tenant+"/"+name)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := kubectl(ctx, "", "delete", "pod", name, "-n", namespace(tenant), "--ignore-not-found")
	return err
}

// Get implements attacks.Installation, by the gateway.
func (s *site) Get(ctx context.Context, tenant, name, path string) (int, []byte, error) {
	return s.get(ctx, fmt.Sprintf("%s/ns/%s/fn/%s%s", s.gateway, namespace(tenant), name, path))
}

func (s *site) get(ctx context.Context, url string) (_ int, _ []byte, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	res, err := s.client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, body, err
}

// Outside implements attacks.Installation: this machine asks.
func (s *site) Outside(ctx context.Context, address string) string {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, body, err := s.get(ctx, "http://"+address+"/"); err == nil {
		return string(body)
	}
	return ""
}
