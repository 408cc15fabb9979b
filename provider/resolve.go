package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	agentv1 "sanfran.dev/proto/sanfran/agent/v1"
)

// Objects reads what a pod refers to. A not-found error is Kubernetes' own
// (apierrors.IsNotFound).
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	// Token returns a token of the pod's ServiceAccount, bound to the pod, and
	// when it should be replaced.
	Token(ctx context.Context, pod *corev1.Pod, source *corev1.ServiceAccountTokenProjection) (token string, refresh time.Time, err error)
}

// errMissing marks what a pod refers to and is not there; the user may make it
// at any time.
var errMissing = errors.New("")

func missing(format string, args ...any) error {
	return fmt.Errorf("%s%w", fmt.Sprintf(format, args...), errMissing)
}

// volumeError is why a volume cannot be made; the kubelet calls it FailedMount.
type volumeError struct {
	volume string
	err    error
}

func (e *volumeError) Error() string { return fmt.Sprintf("volume %q: %v", e.volume, e.err) }
func (e *volumeError) Unwrap() error { return e.err }

// resolved is a pod with everything it refers to.
type resolved struct {
	assignment *agentv1.Assignment
	// archive is the code, assignment.mounts name it by its digest.
	digest  string
	archive []byte
	// refresh is when a token in it should be replaced; zero when there is none.
	refresh time.Time
}

// resolve makes a function and what it refers to an assignment, but for the
// epoch.
func resolve(ctx context.Context, objects Objects, pod *corev1.Pod, f *Function, at place) (*resolved, error) {
	r := &resolved{}
	var mounts []*agentv1.Mount
	for _, m := range f.Mounts {
		mount := &agentv1.Mount{Path: m.Path}
		if m.Volume.EmptyDir != nil {
			mount.Source = &agentv1.Mount_EmptyDir{EmptyDir: &agentv1.EmptyDir{Name: m.Volume.Name}}
			if limit := m.Volume.EmptyDir.SizeLimit; limit != nil {
				mount.GetEmptyDir().SizeBytes = limit.Value()
			}
			mounts = append(mounts, mount)
			continue
		}
		files, refresh, err := volumeFiles(ctx, objects, pod, f.Container, m.Volume, at)
		if err != nil {
			return nil, &volumeError{m.Volume.Name, err}
		}
		if !refresh.IsZero() && (r.refresh.IsZero() || refresh.Before(r.refresh)) {
			r.refresh = refresh
		}
		if m.Path == codePath {
			if r.digest, r.archive, err = packBundle(files); err != nil {
				return nil, &volumeError{m.Volume.Name, err}
			}
			mount.Source = &agentv1.Mount_Bundle{Bundle: r.digest}
		} else {
			mount.Source = &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: files}}
		}
		mounts = append(mounts, mount)
	}
	at.port = f.Port
	env, err := resolveEnv(ctx, objects, pod, f.Container, at)
	if err != nil {
		return nil, err
	}
	rev, err := revision(pod.Namespace, r.digest, f, pod.Spec.ServiceAccountName)
	if err != nil {
		return nil, err
	}
	r.assignment = &agentv1.Assignment{
		PodUid: string(pod.UID), Namespace: pod.Namespace, PodName: pod.Name,
		Function: f.Name, Revision: rev, Address: at.podIPs.first(), Address6: at.podIPs.second(), Port: f.Port,
		Runtime: f.Runtime, Entry: codePath, Mounts: mounts, Env: env,
		Resources: f.Resources, Hostname: f.Hostname,
		Command: expandCommand(f.Command, env), WorkingDir: f.WorkingDir, ParkServer: f.ParkServer,
	}
	return r, nil
}

// renewTokens reads the volumes that hold tokens again, into an assignment of
// the pod, and returns when a token in it should be replaced next.
func renewTokens(ctx context.Context, objects Objects, pod *corev1.Pod, f *Function, at place, a *agentv1.Assignment) (refresh time.Time, err error) {
	for _, m := range f.Mounts {
		if !holdsToken(m.Volume) {
			continue
		}
		files, until, err := volumeFiles(ctx, objects, pod, f.Container, m.Volume, at)
		if err != nil {
			return time.Time{}, &volumeError{m.Volume.Name, err}
		}
		if refresh.IsZero() || until.Before(refresh) {
			refresh = until
		}
		for _, mount := range a.Mounts {
			if mount.Path == m.Path {
				mount.Source = &agentv1.Mount_Files{Files: &agentv1.FileSet{Files: files}}
			}
		}
	}
	return refresh, nil
}

func holdsToken(v *corev1.Volume) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil })
}

// volumeFiles reads a volume that is files.
func volumeFiles(ctx context.Context, objects Objects, pod *corev1.Pod, c *corev1.Container, v *corev1.Volume, at place) (files map[string][]byte, refresh time.Time, err error) {
	switch {
	case v.ConfigMap != nil:
		files, err = configMapFiles(ctx, objects, pod.Namespace, v.ConfigMap.Name, optional(v.ConfigMap.Optional), v.ConfigMap.Items)
	case v.Secret != nil:
		files, err = secretFiles(ctx, objects, pod.Namespace, v.Secret.SecretName, optional(v.Secret.Optional), v.Secret.Items)
	case v.DownwardAPI != nil:
		files, err = downwardFiles(pod, c, v.DownwardAPI.Items, at)
	case v.Projected != nil:
		files = map[string][]byte{}
		for _, s := range v.Projected.Sources {
			part, until, err := projectedFiles(ctx, objects, pod, c, s, at)
			if err != nil {
				return nil, time.Time{}, err
			}
			maps.Copy(files, part)
			if !until.IsZero() && (refresh.IsZero() || until.Before(refresh)) {
				refresh = until
			}
		}
	}
	return files, refresh, err
}

func projectedFiles(ctx context.Context, objects Objects, pod *corev1.Pod, c *corev1.Container, s corev1.VolumeProjection, at place) (files map[string][]byte, refresh time.Time, err error) {
	switch {
	case s.ConfigMap != nil:
		files, err = configMapFiles(ctx, objects, pod.Namespace, s.ConfigMap.Name, optional(s.ConfigMap.Optional), s.ConfigMap.Items)
	case s.Secret != nil:
		files, err = secretFiles(ctx, objects, pod.Namespace, s.Secret.Name, optional(s.Secret.Optional), s.Secret.Items)
	case s.DownwardAPI != nil:
		files, err = downwardFiles(pod, c, s.DownwardAPI.Items, at)
	case s.ServiceAccountToken != nil:
		var token string
		if token, refresh, err = objects.Token(ctx, pod, s.ServiceAccountToken); err == nil {
			files = map[string][]byte{s.ServiceAccountToken.Path: []byte(token)}
		}
	}
	return files, refresh, err
}

func configMapFiles(ctx context.Context, objects Objects, namespace, name string, opt bool, items []corev1.KeyToPath) (map[string][]byte, error) {
	m, err := configMap(ctx, objects, namespace, name, opt)
	if err != nil || m == nil {
		return map[string][]byte{}, err
	}
	data := maps.Clone(m.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, value := range m.Data {
		data[key] = []byte(value)
	}
	return pick(data, items, opt, "configmap", name)
}

func secretFiles(ctx context.Context, objects Objects, namespace, name string, opt bool, items []corev1.KeyToPath) (map[string][]byte, error) {
	s, err := secret(ctx, objects, namespace, name, opt)
	if err != nil || s == nil {
		return map[string][]byte{}, err
	}
	return pick(s.Data, items, opt, "secret", name)
}

// pick renames keys to paths; without items every key is a file of its name.
func pick(data map[string][]byte, items []corev1.KeyToPath, opt bool, kind, name string) (map[string][]byte, error) {
	if len(items) == 0 {
		return data, nil
	}
	files := map[string][]byte{}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok && !opt {
			return nil, missing("%s %q references non-existent key: %s", kind, name, item.Key)
		}
		if ok {
			files[strings.TrimPrefix(path.Clean("/"+item.Path), "/")] = value
		}
	}
	return files, nil
}

func downwardFiles(pod *corev1.Pod, c *corev1.Container, items []corev1.DownwardAPIVolumeFile, at place) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = podField(pod, item.FieldRef.FieldPath, at)
		case item.ResourceFieldRef != nil:
			value, err = resourceField(c, item.ResourceFieldRef, at)
		}
		if err != nil {
			return nil, fmt.Errorf("downward file %q: %w", item.Path, err)
		}
		files[path.Clean(item.Path)] = []byte(value)
	}
	return files, nil
}

// configMap returns nil when an optional one is not there.
func configMap(ctx context.Context, objects Objects, namespace, name string, opt bool) (*corev1.ConfigMap, error) {
	m, err := objects.ConfigMap(ctx, namespace, name)
	switch {
	case apierrors.IsNotFound(err) && opt:
		return nil, nil
	case apierrors.IsNotFound(err):
		return nil, missing("configmap %q not found in namespace %s; make it, the pod then starts by itself", name, namespace)
	case err != nil:
		return nil, fmt.Errorf("read configmap %q: %w", name, err)
	}
	return m, nil
}

// secret returns nil when an optional one is not there.
func secret(ctx context.Context, objects Objects, namespace, name string, opt bool) (*corev1.Secret, error) {
	s, err := objects.Secret(ctx, namespace, name)
	switch {
	case apierrors.IsNotFound(err) && opt:
		return nil, nil
	case apierrors.IsNotFound(err):
		return nil, missing("secret %q not found in namespace %s; make it, the pod then starts by itself", name, namespace)
	case err != nil:
		return nil, fmt.Errorf("read secret %q: %w", name, err)
	}
	return s, nil
}

func optional(b *bool) bool { return b != nil && *b }
