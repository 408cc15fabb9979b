package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// revision is the digest of (namespace, bundle, the parts of the pod's template
// that change how it runs). Pods that one template made have the same one: what
// Kubernetes makes different in each (its name, address, token and the name of
// the token's volume) is not in it, and values that env takes from the pod are
// in it as references.
func revision(namespace, bundle string, f *Function, serviceAccount string) (string, error) {
	type mount struct {
		Path   string
		Source corev1.VolumeSource
	}
	content := struct {
		Namespace, Bundle, Runtime, ServiceAccount string
		Port                                       uint32
		MilliCPU, MemoryBytes                      int64
		MilliCPURequest, MemoryRequest, Ephemeral  int64
		Env                                        []corev1.EnvVar
		EnvFrom                                    []corev1.EnvFromSource
		Mounts                                     []mount
		Command                                    []string
		WorkingDir                                 string
		ParkServer                                 bool
	}{
		Namespace: namespace, Bundle: bundle, Runtime: f.Runtime, ServiceAccount: serviceAccount,
		Port: f.Port, MilliCPU: f.Resources.GetMilliCpu(), MemoryBytes: f.Resources.GetMemoryBytes(),
		MilliCPURequest: f.Resources.GetMilliCpuRequest(), MemoryRequest: f.Resources.GetMemoryRequestBytes(), Ephemeral: f.Resources.GetEphemeralBytes(),
		Env: f.Container.Env, EnvFrom: f.Container.EnvFrom,
		Command: f.Command, WorkingDir: f.WorkingDir, ParkServer: f.ParkServer,
	}
	for _, m := range f.Mounts {
		content.Mounts = append(content.Mounts, mount{m.Path, m.Volume.VolumeSource})
	}
	data, err := json.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("encode the revision: %w", err)
	}
	sum := sha256.Sum256(data)
	// Half of the digest keeps routes and headers short and is more than enough
	// against accident; a namespace cannot meet another's by design, as its
	// name is part of the content.
	return hex.EncodeToString(sum[:16]), nil
}
