//go:build e2e

package e2e

import "testing"

// kill ends a component's pods at once and waits until others are Ready.
func kill(t *testing.T, component, workload string) {
	t.Helper()
	kubectl(t, "delete", "pods", "-n", release, "-l", "app.kubernetes.io/component="+component, "--grace-period=0", "--force")
	kubectl(t, "rollout", "status", "-n", release, workload, "--timeout=80s")
}

// I3: while the control plane is away, warm and cold requests go on.
func TestI3ControlPlaneAway(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "warm", "hello", "--annotations=sanfran.dev/idle-timeout=10m")
	waitReady(t, namespace, "warm")
	runFunction(t, namespace, "cold", "hello", "--annotations=sanfran.dev/idle-timeout=10m")
	waitReady(t, namespace, "cold")
	var cold pod
	get(t, &cold, "pod", "cold", "-n", namespace)

	kubectl(t, "scale", "statefulset", "sanfran-control-plane", "-n", release, "--replicas=0")
	t.Cleanup(func() {
		kubectlAfter(t, "scale", "statefulset", "sanfran-control-plane", "-n", release, "--replicas=1")
		kubectlAfter(t, "rollout", "status", "statefulset", "sanfran-control-plane", "-n", release, "--timeout=80s")
	})
	kubectl(t, "wait", "-n", release, "--for=delete", "pod/sanfran-control-plane-0", "--timeout=60s")
	for _, function := range []string{"warm", "cold", "warm", "cold"} {
		if status, body := fetch(t, gateway(namespace, function, "")); status != 200 || body != "Hello World" {
			t.Errorf("%s while the control plane is away: %d %q", function, status, body)
		}
	}
	if got := inCluster(t, namespace, "http://"+cold.Status.PodIP+":8080/"); got != "Hello World" {
		t.Errorf("a pod's address while the control plane is away: %q", got)
	}
}

// Whichever of SanFran's pods dies, functions answer again, and keep their
// addresses and their readiness.
func TestPodsKilled(t *testing.T) {
	namespace := newNamespace(t)
	client(t, namespace)
	configMap(t, namespace, "hello", helloCode)
	runFunction(t, namespace, "hello", "hello", "--annotations=sanfran.dev/idle-timeout=10m")
	waitReady(t, namespace, "hello")
	var before pod
	get(t, &before, "pod", "hello", "-n", namespace)
	for component, workload := range map[string]string{
		"gateway": "deployment/sanfran-gateway", "control-plane": "statefulset/sanfran-control-plane", "agent": "daemonset/sanfran-agent",
	} {
		t.Run(component, func(t *testing.T) {
			kill(t, component, workload)
			waitReady(t, namespace, "hello")
			eventuallyAnswers(t, namespace, "hello", "Hello World")
			if got := inCluster(t, namespace, "http://"+before.Status.PodIP+":8080/"); got != "Hello World" {
				t.Errorf("the pod's address answers %q", got)
			}
			var after pod
			get(t, &after, "pod", "hello", "-n", namespace)
			if after.Status.PodIP != before.Status.PodIP || after.Metadata.UID != before.Metadata.UID {
				t.Errorf("the pod was %s at %s and is %s at %s", before.Metadata.UID, before.Status.PodIP, after.Metadata.UID, after.Status.PodIP)
			}
		})
	}
}

// eventuallyAnswers asks at the gateway until the function answers, as a patient
// client does: a new gateway's Service and a new agent's pods take their time.
func eventuallyAnswers(t *testing.T, namespace, function, want string) {
	t.Helper()
	body, err := run(t, "", "curl", "-sS", "--fail", "--retry", "60", "--retry-delay", "1", "--retry-all-errors", gateway(namespace, function, ""))
	if err != nil || body != want {
		t.Fatalf("%s does not answer: %q, %v", function, body, err)
	}
}
