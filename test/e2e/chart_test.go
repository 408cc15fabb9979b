//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

const chart = "../../deploy/helm/sanfran"

// Whatever the chart's values make is something the API server takes.
func TestChartValuesMakeValidObjects(t *testing.T) {
	for name, values := range map[string][]string{
		"default":            nil,
		"ingress":            {"ingress.enabled=true", "ingress.host=functions.example.com", "ingress.className=nginx"},
		"service account":    {"controlPlane.kubernetesIdentity=serviceaccount"},
		"no persistence":     {"controlPlane.persistence.enabled=false"},
		"digest, node port":  {"image.digest=sha256:" + strings.Repeat("0", 64), "gateway.service.type=NodePort", "gateway.service.nodePort=30999"},
		"another node":       {"virtualNode.name=functions", "virtualNode.podCIDR=10.200.0.0/16"},
		"no admission rules": {"admissionPolicy.enabled=false"},
		"runc":               {"agent.ociRuntime=runc"},
		"host names":         {"gateway.hostSuffix=functions.example.com", "gateway.queueMemoryMiB=16"},
		"dual stack":         {"virtualNode.podCIDRv6=fd10:245::/64", "agent.networkCIDRv6=fd10:246::/64"},
		"tproxy":             {"agent.podAddresses=tproxy"},
		"traces":             {"agent.env[0].name=OTEL_EXPORTER_OTLP_ENDPOINT", "agent.env[0].value=http://collector:4318", "gateway.env[0].name=OTEL_SDK_DISABLED", "gateway.env[0].value=yes"},
	} {
		t.Run(name, func(t *testing.T) {
			// A release of another name, so that nothing of the installed one is
			// touched, not even in a dry run.
			args := []string{"template", "other", chart, "-n", "default"}
			for _, value := range values {
				args = append(args, "--set", value)
			}
			if name != "another node" {
				args = append(args, "--set", "virtualNode.name=other")
			}
			manifest, err := run(t, "", "helm", args...)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := run(t, manifest, "kubectl", "apply", "--dry-run=server", "-f", "-"); err != nil {
				t.Errorf("%v%s", err, out)
			}
		})
	}
}

func TestChartRefusesWhatItDoesNotKnow(t *testing.T) {
	for value, want := range map[string]string{
		"agent.pool.target=many":             "target",
		"agent.pool.unused=-1":               "unused",
		"agent.idleTimeout=60":               "idleTimeout",
		"agent.ociRuntime=runsc":             "ociRuntime",
		"virtualNode.podCIDR=10.245.0.0":     "podCIDR",
		"virtualNode.podCIDRv6=10.245.0.0/8": "podCIDRv6",
		"agent.podAddresses=redirect":        "podAddresses",
		"controlPlane.kubernetesIdentity=me": "kubernetesIdentity",
		"gateway.servcie.type=NodePort":      "servcie",
		"image.digest=latest":                "digest",
		"gateway.service.type=ExternalName":  "type",
		"gateway.hostSuffix=*.example.com":   "hostSuffix",
		"agent.resources.limit.memory=1Gi":   "limit",
	} {
		_, err := run(t, "", "helm", "template", "x", chart, "--set", value)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, want an error that names %s", value, err, want)
		}
	}
}

// What needs Kubernetes 1.36 is left out for older ones, and nothing else is.
func TestChartForOlderKubernetes(t *testing.T) {
	older, err := run(t, "", "helm", "template", "x", chart, "--kube-version", "1.34.0")
	if err != nil {
		t.Fatal(err)
	}
	newer, err := run(t, "", "helm", "template", "x", chart, "--kube-version", "1.36.0")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(older, "MutatingAdmissionPolicy") || !strings.Contains(older, "kind: RuntimeClass") {
		t.Error("for 1.34 the chart makes a MutatingAdmissionPolicy, or no RuntimeClass")
	}
	if !strings.Contains(newer, "kind: MutatingAdmissionPolicy") {
		t.Error("for 1.36 the chart makes no MutatingAdmissionPolicy")
	}
	if _, err := run(t, "", "helm", "template", "x", chart, "--kube-version", "1.30.0"); err == nil {
		t.Error("the chart takes Kubernetes 1.30, which it does not support")
	}
}
