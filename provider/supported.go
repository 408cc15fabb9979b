package provider

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
)

// checkPod refuses what no function pod can have, by name and with what to do.
func checkPod(pod *corev1.Pod) error {
	spec := &pod.Spec
	switch {
	case len(spec.InitContainers) > 0:
		return unsupported("spec.initContainers", "functions have none; do the work when the module loads, or run this pod on another node")
	case len(spec.Containers) != 1:
		return unsupported("spec.containers", "a function pod has exactly one container, this one has %d; make a pod of each, or run it on another node", len(spec.Containers))
	case spec.HostNetwork:
		return unsupported("spec.hostNetwork", "a function has a network of its own; remove it")
	case spec.HostPID:
		return unsupported("spec.hostPID", "a function cannot see the node's processes; remove it")
	case spec.HostIPC:
		return unsupported("spec.hostIPC", "a function cannot use the node's IPC; remove it")
	case spec.ActiveDeadlineSeconds != nil:
		return unsupported("spec.activeDeadlineSeconds", "it is not enforced yet; remove it")
	case len(spec.HostAliases) > 0:
		return unsupported("spec.hostAliases", "they are not written to /etc/hosts yet; use a Service of type ExternalName instead")
	case spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN:
		return unsupported("spec.setHostnameAsFQDN", "it is not supported yet; remove it")
	case spec.OS != nil && spec.OS.Name != corev1.Linux:
		return unsupported("spec.os", "functions run on linux, not %s", spec.OS.Name)
	case len(spec.ResourceClaims) > 0:
		return unsupported("spec.resourceClaims", "functions have no devices; run this pod on another node")
	}
	for i := range spec.Volumes {
		if err := checkVolume(fmt.Sprintf("spec.volumes[%d]", i), &spec.Volumes[i]); err != nil {
			return err
		}
	}
	return nil
}

func checkVolume(field string, v *corev1.Volume) error {
	switch {
	case v.EmptyDir != nil:
		return checkEmptyDir(field+".emptyDir", v.EmptyDir)
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil:
		return nil
	case v.Projected != nil:
		for i, s := range v.Projected.Sources {
			if s.ConfigMap == nil && s.Secret == nil && s.DownwardAPI == nil && s.ServiceAccountToken == nil {
				return unsupported(fmt.Sprintf("%s.projected.sources[%d]", field, i),
					"a projected volume of a function holds configMap, secret, downwardAPI and serviceAccountToken; remove what is else")
			}
		}
		return nil
	case v.HostPath != nil:
		return unsupported(field+".hostPath", "a function cannot see the node's files; use configMap, secret or emptyDir")
	case v.PersistentVolumeClaim != nil:
		return unsupported(field+".persistentVolumeClaim", "functions have no persistent volumes; keep state in a service that the function calls")
	default:
		return unsupported(field, "volume %q is of a kind that functions cannot have; use configMap, secret, emptyDir, downwardAPI or projected", v.Name)
	}
}

// leastStorage is what a limit of storage must be at least.
const leastStorage = 1 << 20

func checkEmptyDir(field string, e *corev1.EmptyDirVolumeSource) error {
	if e.Medium != corev1.StorageMediumDefault && e.Medium != corev1.StorageMediumMemory {
		return unsupported(field+".medium", "functions have no %s; remove it", e.Medium)
	}
	if e.SizeLimit != nil && !e.SizeLimit.IsZero() && e.SizeLimit.Value() < leastStorage {
		return unsupported(field+".sizeLimit", "%s is too small; give at least 1Mi", e.SizeLimit)
	}
	return nil
}

func checkContainer(c *corev1.Container) error {
	const field = "spec.containers[0]"
	if _, ok := runtimes[c.Image]; !ok {
		return unsupported(field+".image", "%q is not a function's image; use sanfran/node:24 or sanfran/node:26 with the code in a ConfigMap mounted at %s, or run this pod on another node", c.Image, codePath)
	}
	switch {
	case c.WorkingDir != "" && !path.IsAbs(c.WorkingDir):
		return unsupported(field+".workingDir", "%q is not an absolute path", c.WorkingDir)
	case c.Lifecycle != nil:
		return unsupported(field+".lifecycle", "hooks are not run yet; remove them")
	case len(c.VolumeDevices) > 0:
		return unsupported(field+".volumeDevices", "functions have no devices; remove them")
	case !c.Resources.Limits.StorageEphemeral().IsZero() && c.Resources.Limits.StorageEphemeral().Value() < leastStorage:
		return unsupported(field+".resources.limits[ephemeral-storage]", "%s is too small for /tmp and emptyDirs; give at least 1Mi", c.Resources.Limits.StorageEphemeral())
	case len(c.Ports) > 1:
		return unsupported(field+".ports", "a function serves one port, this one has %d; keep one", len(c.Ports))
	}
	for i, port := range c.Ports {
		at := fmt.Sprintf("%s.ports[%d]", field, i)
		if port.HostPort != 0 {
			return unsupported(at+".hostPort", "a function cannot have a port of the node; use a Service")
		}
		if port.Protocol != "" && port.Protocol != corev1.ProtocolTCP {
			return unsupported(at+".protocol", "functions speak HTTP over TCP, not %s", port.Protocol)
		}
	}
	if s := c.SecurityContext; s != nil {
		if s.Privileged != nil && *s.Privileged {
			return unsupported(field+".securityContext.privileged", "functions run without any privilege; remove it")
		}
		if s.Capabilities != nil && len(s.Capabilities.Add) > 0 {
			return unsupported(field+".securityContext.capabilities.add", "functions run without any capability; remove it")
		}
	}
	return nil
}
