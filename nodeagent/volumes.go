package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"sanfran.dev/internal/failpoint"
	"sanfran.dev/nodeagent/bundle"
	"sanfran.dev/nodeagent/container"
)

// volumes is what a pod mounts into each of its containers. It is made when
// the pod is assigned, so that no request waits for a download, and lives as
// long as the pod is here.
type volumes struct {
	dir     string
	bundles []*bundle.Bundle
	mounts  []container.Mount
	// code: the bundles have enough of it for a compile cache.
	code bool
}

// makeVolumes fetches the bundles of the mounts and writes their files, and
// those of /etc, into dir, which belongs to the volumes from then on; emptyDirs
// makes what holds the emptyDirs there. If dir exists it is that of the pod's
// volumes of an earlier process, which containers may have mounted: what is in it
// stays. Its errors are *failure. ctx ends a download.
func makeVolumes(ctx context.Context, bundles Bundles, dir string, a *Assignment, mounts []PodMount, emptyDirs func(dir string) error) (_ *volumes, err error) {
	v := &volumes{dir: dir}
	_, statErr := os.Lstat(dir)
	inherited := statErr == nil
	defer func() {
		switch {
		case err != nil && inherited:
			v.release()
		case err != nil:
			err = errors.Join(err, v.remove())
		}
	}()
	// Nobody but the agent walks through here: containers get binds.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &failure{reason: ReasonVolumeFailed, message: fmt.Sprintf("make the pod's folder: %v", err)}
	}
	if err := emptyDirs(dir); err != nil {
		return nil, &failure{reason: ReasonVolumeFailed, message: fmt.Sprintf("make the pod's emptyDirs: %v", err)}
	}
	failpoint.Here("volumes: folder made")
	for i, m := range mounts {
		if m.Bundle != "" {
			b, err := bundles.Get(ctx, a.Namespace, m.Bundle)
			if err != nil {
				return nil, &failure{reason: bundleReason(err), message: err.Error()}
			}
			v.bundles = append(v.bundles, b)
			v.code = v.code || enoughCode(b.Dir())
			v.mounts = append(v.mounts, container.Mount{Source: b.Dir(), Target: m.Path, ReadOnly: true})
			continue
		}
		mount, err := v.writeMount(i, m)
		if err != nil {
			return nil, &failure{reason: ReasonVolumeFailed, message: fmt.Sprintf("the mount at %s: %v", m.Path, err)}
		}
		v.mounts = append(v.mounts, mount)
	}
	for target, content := range etcFiles(a) {
		source := filepath.Join(dir, filepath.Base(target))
		if err := writeUnlessSame(source, content); err != nil {
			return nil, &failure{reason: ReasonVolumeFailed, message: fmt.Sprintf("write %s: %v", target, err)}
		}
		v.mounts = append(v.mounts, container.Mount{Source: source, Target: target, ReadOnly: true})
	}
	failpoint.Here("volumes: filled")
	return v, nil
}

// bundleReason names an error of the bundle store.
func bundleReason(err error) string {
	switch {
	case errors.Is(err, bundle.ErrRefused):
		return ReasonBundleRefused
	case errors.Is(err, bundle.ErrNoRoom):
		return ReasonBundleStoreFull
	default:
		return ReasonBundleFetchFailed
	}
}

func (v *volumes) writeMount(i int, m PodMount) (container.Mount, error) {
	if m.EmptyDir != "" {
		source := emptyDirFolder(v.dir, m)
		if err := os.Mkdir(source, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return container.Mount{}, err
		}
		return container.Mount{Source: source, Target: m.Path}, os.Chmod(source, 0o777)
	}
	source := v.filesDir(i)
	if err := os.Mkdir(source, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return container.Mount{}, err
	}
	return container.Mount{Source: source, Target: m.Path, ReadOnly: true}, writeFiles(source, m.Files)
}

// writeUnlessSame leaves a file alone, that may be mounted somewhere, if it is
// what it shall be.
func writeUnlessSame(name, content string) error {
	if had, err := os.ReadFile(name); err == nil && string(had) == content {
		return nil
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

// filesDir is the folder of the i-th mount's files.
func (v *volumes) filesDir(i int) string { return filepath.Join(v.dir, fmt.Sprintf("files-%d", i)) }

// refill replaces the content of files, under containers that have them
// mounted: each file at once, what is no more at the end.
func (v *volumes) refill(mounts []PodMount) error {
	var errs []error
	for i, m := range mounts {
		if m.Files != nil {
			errs = append(errs, writeFiles(v.filesDir(i), m.Files))
		}
	}
	return errors.Join(errs...)
}

// writeFiles makes a folder hold just these files. Containers see it read-only,
// so only the agent changes it.
func writeFiles(dir string, files map[string][]byte) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	const partial = ".sanfran-partial"
	for name, content := range files {
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(partial, content, 0o644); err != nil {
			return err
		}
		if err := root.Rename(partial, name); err != nil {
			return err
		}
	}
	return fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if _, keep := files[name]; err != nil || keep || entry.IsDir() {
			return err
		}
		return root.Remove(name)
	})
}

// etcFiles are the files of /etc that are the pod's own.
func etcFiles(a *Assignment) map[string]string {
	var resolv strings.Builder
	for _, server := range a.DNS.Nameservers {
		fmt.Fprintf(&resolv, "nameserver %s\n", server)
	}
	if len(a.DNS.Searches) > 0 {
		fmt.Fprintf(&resolv, "search %s\n", strings.Join(a.DNS.Searches, " "))
	}
	if len(a.DNS.Options) > 0 {
		fmt.Fprintf(&resolv, "options %s\n", strings.Join(a.DNS.Options, " "))
	}
	hostname := a.hostname()
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost\n"
	for _, addr := range a.addresses() {
		hosts += fmt.Sprintf("%s\t%s\n", addr, hostname)
	}
	return map[string]string{
		"/etc/resolv.conf": resolv.String(),
		"/etc/hostname":    hostname + "\n",
		"/etc/hosts":       hosts,
	}
}

func (a *Assignment) hostname() string {
	if a.Hostname != "" {
		return a.Hostname
	}
	// As the kubelet cuts it, whose names do not end in a separator either.
	return strings.TrimRight(a.PodName[:min(len(a.PodName), 63)], "-.")
}

// mountInto binds everything into a container. The agent does it while the
// container is still nobody's, so nothing in it can race.
func (v *volumes) mountInto(ctx context.Context, c container.Container) error {
	for _, m := range v.mounts {
		if err := c.Mount(ctx, m); err != nil {
			return err
		}
		if !m.ReadOnly {
			if err := inherit(m.Source); err != nil {
				return fmt.Errorf("hand the files of %s on: %w", m.Target, err)
			}
		}
	}
	return nil
}

// inherit makes everything in an emptyDir the property of whom the folder
// itself belongs to. Each container runs as a user of its own, and the runtime
// gives it the folder, but not what the pod's former container left in it. That
// one may still be draining and change what is there, so nothing here follows a
// link out of the folder.
func inherit(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && name != "." {
			err = root.Lchown(name, int(owner.Uid), int(owner.Gid))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		return err
	})
}

// remove releases the bundles and deletes what was written.
func (v *volumes) remove() error {
	v.release()
	if err := unmountEmptyDirs(v.dir); err != nil {
		return fmt.Errorf("remove the pod's emptyDirs: %w", err)
	}
	if err := failpoint.After("volumes: removed", os.RemoveAll(v.dir)); err != nil {
		return fmt.Errorf("remove the pod's folder: %w", err)
	}
	return nil
}

func (v *volumes) release() {
	for _, b := range v.bundles {
		b.Release()
	}
}
