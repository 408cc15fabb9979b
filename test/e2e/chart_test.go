//go:build e2e

package e2e

import (
	"strings"
	"testing"
)

const chart = "../../deploy/helm/sanfran"

// Whatever the chart's values make is something the API server takes.
func TestChartValuesMakeValidObjects(t *testing.T) {
	const affinity = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0]"
	placed := func(component string) []string {
		return []string{
			component + ".nodeSelector.edge=yes", component + ".tolerations[0].operator=Exists",
			component + "." + affinity + ".key=metadata.name", component + "." + affinity + ".operator=In", component + "." + affinity + ".values={edge-1}",
		}
	}
	const spread = "gateway.topologySpreadConstraints[0]"
	// All together take every branch of every template.
	for name, values := range map[string][]string{
		"default":            nil,
		"ingress":            {"ingress.enabled=true", "ingress.host=functions.example.com", "ingress.className=nginx", "ingress.annotations.team=web", "ingress.tls[0].secretName=cert"},
		"ingress of names":   {"ingress.enabled=true", "gateway.hostSuffix=functions.example.com", "ingress.namespaces={default,team}"},
		"service account":    {"controlPlane.kubernetesIdentity=serviceaccount"},
		"no persistence":     {"controlPlane.persistence.enabled=false"},
		"storage class":      {"controlPlane.persistence.storageClassName=fast"},
		"digest, node port":  {"image.digest=sha256:" + strings.Repeat("0", 64), "gateway.service.type=NodePort", "gateway.service.nodePort=30999"},
		"pull secrets":       {"image.tag=", "imagePullSecrets[0].name=registry"},
		"another node":       {"virtualNode.name=functions", "virtualNode.podCIDR=10.200.0.0/16"},
		"no admission rules": {"admissionPolicy.enabled=false"},
		"runc":               {"agent.ociRuntime=runc"},
		"host names":         {"gateway.hostSuffix=functions.example.com", "gateway.queueMemoryMiB=16"},
		"dual stack":         {"virtualNode.podCIDRv6=fd10:245::/64", "agent.networkCIDRv6=fd10:246::/64"},
		"tproxy":             {"agent.podAddresses=tproxy"},
		"gateways":           {"gateway.replicas=2", "gateway.trustedProxies={10.0.0.0/8,fd00::/8}", "gateway.accessLog=true", "gateway.metricsFunctions=10"},
		"gateways drained":   {"gateway.replicas=4", "gateway.podDisruptionBudget.maxUnavailable=50%"},
		"gateways by zone":   {"gateway.replicas=2", spread + ".maxSkew=1", spread + ".topologyKey=topology.kubernetes.io/zone", spread + ".whenUnsatisfiable=DoNotSchedule", spread + ".labelSelector.matchLabels.edge=web"},
		"gateways anywhere":  {"gateway.topologySpreadConstraints=null"},
		"gateways placed":    placed("gateway"),
		"control placed":     placed("controlPlane"),
		"TLS":                {"gateway.tls.secretName=cert", "gateway.service.type=LoadBalancer", "gateway.service.annotations.team=web"},
		"no annotations":     {"metrics.scrapeAnnotations=false"},
		"traces":             {"agent.env[0].name=OTEL_EXPORTER_OTLP_ENDPOINT", "agent.env[0].value=http://collector:4318", "gateway.env[0].name=OTEL_SDK_DISABLED", "gateway.env[0].value=yes"},
		"Go's debugging":     {"gateway.env[0].name=GODEBUG", "gateway.env[0].value=gctrace=1"},
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

// What the values of a gateway come to.
func TestChartOfGateways(t *testing.T) {
	const budget, constraint = "kind: PodDisruptionBudget", "topologySpreadConstraints:"
	for name, test := range map[string]struct {
		values, has, lacks []string
	}{
		"one": {nil, []string{constraint, "value: http2xconnect=1\n", `prometheus.io/port: "8081"`, `prometheus.io/port: "7072"`}, []string{budget, "kind: Ingress", "name: https"}},
		"two": {[]string{"gateway.replicas=2"}, []string{budget, "maxUnavailable: 1\n", "replicas: 2\n"}, nil},
		"spread by a selector": {
			[]string{"gateway.topologySpreadConstraints[0].maxSkew=1", "gateway.topologySpreadConstraints[0].topologyKey=rack", "gateway.topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule", "gateway.topologySpreadConstraints[0].labelSelector.matchLabels.edge=web"},
			[]string{"labelSelector:\n            matchLabels:\n              edge: web\n          maxSkew: 1\n          topologyKey: rack\n"}, []string{"topologyKey: kubernetes.io/hostname"},
		},
		"not spread":  {[]string{"gateway.replicas=2", "gateway.topologySpreadConstraints=null"}, []string{budget}, []string{constraint}},
		"not scraped": {[]string{"metrics.scrapeAnnotations=false"}, nil, []string{"prometheus.io"}},
		"ingress": {
			[]string{"ingress.enabled=true", "ingress.host=example.com", "ingress.namespaces={team}"},
			[]string{`host: "example.com"`, "- path: /fn\n", "- path: /ns\n"}, []string{"- path: /api", "- path: /\n", "*."},
		},
		"ingress of names": {
			[]string{"ingress.enabled=true", "gateway.hostSuffix=example.com", "ingress.namespaces={team,default}"},
			[]string{`host: "*.team.example.com"`, `host: "*.default.example.com"`, "- path: /\n"}, nil,
		},
		"a GODEBUG besides": {
			[]string{"gateway.env[0].name=GODEBUG", "gateway.env[0].value=gctrace=1", "gateway.env[1].name=A", "gateway.env[1].value=b"},
			[]string{"value: http2xconnect=1,gctrace=1\n", "- name: A\n"}, []string{"value: http2xconnect=1\n"},
		},
		"a GODEBUG instead": {
			[]string{"gateway.env[0].name=GODEBUG", "gateway.env[0].value=http2xconnect=0"},
			[]string{"value: http2xconnect=0\n"}, []string{"http2xconnect=1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"template", "x", chart}
			for _, value := range test.values {
				args = append(args, "--set", value)
			}
			manifest, err := run(t, "", "helm", args...)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range test.has {
				if !strings.Contains(manifest, want) {
					t.Errorf("the chart makes no %q", want)
				}
			}
			for _, never := range test.lacks {
				if strings.Contains(manifest, never) {
					t.Errorf("the chart makes a %q", never)
				}
			}
		})
	}
	_, err := run(t, "", "helm", "template", "x", chart, "--set", "gateway.env[0].name=GODEBUG,gateway.env[0].valueFrom.configMapKeyRef.name=go,gateway.env[0].valueFrom.configMapKeyRef.key=debug")
	if err == nil || !strings.Contains(err.Error(), "give GODEBUG a value in place of valueFrom") {
		t.Errorf("a GODEBUG that the chart cannot add to: %v", err)
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
		"ingress.namespaces={team.one}":      "namespaces",
		"metrics.enabled=true":               "enabled",
		// It would hold every drain of a node.
		"gateway.podDisruptionBudget.maxUnavailable=0":        "maxUnavailable",
		"gateway.topologySpreadConstraints[0].topologyKey=it": "maxSkew",
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
