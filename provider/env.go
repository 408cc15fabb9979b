package provider

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// place is what Kubernetes and the control plane decided about a pod, which
// its env and volumes may refer to.
type place struct {
	podIPs podIPs
	hostIP string
	// port is the pod's, which programs look for in PORT.
	port uint32
	// node is what a container without limits may use of the node.
	node *agentv1.Capacity
	// defaults come before everything of the pod's own, by name.
	defaults map[string]string
}

// resolveEnv gives the container's environment in the order of its spec: the
// defaults, PORT, then envFrom, then env. Values may refer to earlier ones as
// $(NAME); $$ stands for $.
func resolveEnv(ctx context.Context, objects Objects, pod *corev1.Pod, c *corev1.Container, at place) ([]*agentv1.EnvVar, error) {
	var all []*agentv1.EnvVar
	values := map[string]string{}
	add := func(name, value string) {
		values[name] = value
		all = append(all, &agentv1.EnvVar{Name: name, Value: value})
	}
	for _, name := range slices.Sorted(maps.Keys(at.defaults)) {
		add(name, at.defaults[name])
	}
	add("PORT", strconv.FormatUint(uint64(at.port), 10))
	for i, from := range c.EnvFrom {
		data, err := envFrom(ctx, objects, pod.Namespace, from)
		if err != nil {
			return nil, fmt.Errorf("spec.containers[0].envFrom[%d]: %w", i, err)
		}
		for _, key := range slices.Sorted(maps.Keys(data)) {
			add(from.Prefix+key, data[key])
		}
	}
	for i, e := range c.Env {
		value, ok := e.Value, true
		if e.ValueFrom != nil {
			var err error
			if value, ok, err = envValue(ctx, objects, pod, c, e.ValueFrom, at); err != nil {
				return nil, fmt.Errorf("spec.containers[0].env[%d] (%s): %w", i, e.Name, err)
			}
		} else {
			value = expand(value, values)
		}
		if ok {
			add(e.Name, value)
		}
	}
	return all, nil
}

func envFrom(ctx context.Context, objects Objects, namespace string, from corev1.EnvFromSource) (map[string]string, error) {
	data := map[string]string{}
	switch {
	case from.ConfigMapRef != nil:
		m, err := configMap(ctx, objects, namespace, from.ConfigMapRef.Name, optional(from.ConfigMapRef.Optional))
		if err != nil || m == nil {
			return nil, err
		}
		maps.Copy(data, m.Data)
	case from.SecretRef != nil:
		s, err := secret(ctx, objects, namespace, from.SecretRef.Name, optional(from.SecretRef.Optional))
		if err != nil || s == nil {
			return nil, err
		}
		for key, value := range s.Data {
			data[key] = string(value)
		}
	}
	return data, nil
}

// envValue returns false for an optional reference to what is not there: the
// variable is then not set.
func envValue(ctx context.Context, objects Objects, pod *corev1.Pod, c *corev1.Container, from *corev1.EnvVarSource, at place) (string, bool, error) {
	switch {
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, err := configMap(ctx, objects, pod.Namespace, ref.Name, optional(ref.Optional))
		if err != nil || m == nil {
			return "", false, err
		}
		if value, ok := m.Data[ref.Key]; ok || optional(ref.Optional) {
			return value, ok, nil
		}
		return "", false, missing("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		s, err := secret(ctx, objects, pod.Namespace, ref.Name, optional(ref.Optional))
		if err != nil || s == nil {
			return "", false, err
		}
		if value, ok := s.Data[ref.Key]; ok || optional(ref.Optional) {
			return string(value), ok, nil
		}
		return "", false, missing("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
	case from.FieldRef != nil:
		value, err := podField(pod, from.FieldRef.FieldPath, at)
		return value, err == nil, err
	case from.ResourceFieldRef != nil:
		value, err := resourceField(c, from.ResourceFieldRef, at)
		return value, err == nil, err
	default:
		return "", false, unsupported("valueFrom", "only configMapKeyRef, secretKeyRef, fieldRef and resourceFieldRef are supported")
	}
}

// podField is the value of a field of the pod that the downward API may name.
func podField(pod *corev1.Pod, path string, at place) (string, error) {
	if field, key, ok := subscript(path); ok {
		switch field {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP":
		return at.podIPs.first(), nil
	case "status.podIPs":
		return at.podIPs.String(), nil
	case "status.hostIP", "status.hostIPs":
		return at.hostIP, nil
	}
	return "", unsupported("fieldRef.fieldPath", "%q is not supported", path)
}

// subscript takes field['key'] apart.
func subscript(path string) (field, key string, ok bool) {
	field, rest, ok := strings.Cut(path, "['")
	if !ok {
		return "", "", false
	}
	key, ok = strings.CutSuffix(rest, "']")
	return field, key, ok
}

// lines is a map as the downward API writes it to a file.
func lines(m map[string]string) string {
	var b strings.Builder
	for i, key := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(key + "=" + strconv.Quote(m[key]))
	}
	return b.String()
}

// resourceField is a request or limit in units of the divisor, rounded up. A
// limit that is not set is what the node gives to functions.
func resourceField(c *corev1.Container, ref *corev1.ResourceFieldSelector, at place) (string, error) {
	if ref.ContainerName != "" && ref.ContainerName != c.Name {
		return "", unsupported("resourceFieldRef.containerName", "there is no container %q", ref.ContainerName)
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	var list corev1.ResourceList
	switch kind {
	case "limits":
		list = c.Resources.Limits
	case "requests":
		list = c.Resources.Requests
	default:
		return "", unsupported("resourceFieldRef.resource", "%q is not supported", ref.Resource)
	}
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok && kind == "limits" {
		switch name {
		case "cpu":
			quantity = *resource.NewMilliQuantity(at.node.GetMilliCpu(), resource.DecimalSI)
		case "memory":
			quantity = *resource.NewQuantity(at.node.GetMemoryBytes(), resource.BinarySI)
		}
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if name == "cpu" {
		return ceilDiv(quantity.MilliValue(), divisor.MilliValue()), nil
	}
	return ceilDiv(quantity.Value(), divisor.Value()), nil
}

func ceilDiv(value, by int64) string {
	if by <= 0 {
		by = 1
	}
	n := value / by
	if value%by > 0 {
		n++
	}
	return strconv.FormatInt(n, 10)
}

// expandCommand expands each word of a command by the container's environment.
func expandCommand(command []string, env []*agentv1.EnvVar) []string {
	if len(command) == 0 {
		return nil
	}
	values := map[string]string{}
	for _, e := range env {
		values[e.GetName()] = e.GetValue()
	}
	words := make([]string, 0, len(command))
	for _, word := range command {
		words = append(words, expand(word, values))
	}
	return words
}

var variable = regexp.MustCompile(`\$(\$|\(([^)]*)\))`)

// expand replaces $(NAME) by the value it has so far; what names nothing stays
// as it is.
func expand(text string, values map[string]string) string {
	return variable.ReplaceAllStringFunc(text, func(match string) string {
		if match == "$$" {
			return "$"
		}
		if value, ok := values[match[2:len(match)-1]]; ok {
			return value
		}
		return match
	})
}
