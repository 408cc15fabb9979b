package main

import (
	"context"
	"errors"
	"path"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// rootfsDir holds the root filesystems inside the image, one folder each.
const rootfsDir = "usr/share/sanfran/rootfs"

// parts is what an image is made of.
type parts struct {
	runtimes []nodeRuntime
	locks    []lock // of runtimes, in the same order
	worker   *tree  // as workerTree gives it; empty for none
	crun     nodeRuntime
	crunLock lock
	runc     string // a static program
	sanfrand string // a static program
}

// image builds the image of p from cached layers.
func (b *builder) image(ctx context.Context, p parts) (v1.Image, error) {
	if len(p.runtimes) == 0 {
		return nil, errors.New("an image needs at least one runtime")
	}
	var layers []*layer
	add := func(l *layer, err error) error {
		layers = append(layers, l)
		return err
	}
	baseKey, err := rootfsKey(p.runtimes[0], p.locks[0])
	if err != nil {
		return nil, err
	}
	if err := add(b.cachedLayer("base-"+baseKey, "base: CA certificates, users, /tmp", func() (*tree, error) {
		return b.baseTree(ctx, p.runtimes[0], p.locks[0])
	})); err != nil {
		return nil, err
	}
	for i, rt := range p.runtimes {
		key, err := rootfsKey(rt, p.locks[i])
		if err != nil {
			return nil, err
		}
		made := rt.Name + ": Node.js " + rt.NpmVersion + " and Debian " + rt.Release + " libraries"
		if err := add(b.cachedLayer(rt.Name+"-"+key, made, func() (*tree, error) {
			rootfs, err := b.nodeRootfs(ctx, rt, p.locks[i])
			if err != nil {
				return nil, err
			}
			return below(path.Join(rootfsDir, rt.Name), rootfs)
		})); err != nil {
			return nil, err
		}
	}
	crunKey, err := rootfsKey(p.crun, p.crunLock)
	if err != nil {
		return nil, err
	}
	if err := add(b.cachedLayer("crun-"+crunKey, "crun and Debian "+p.crun.Release+" libraries", func() (*tree, error) {
		return b.crunTree(ctx, p.crun, p.crunLock)
	})); err != nil {
		return nil, err
	}
	for _, program := range []struct{ name, file string }{{"runc", p.runc}, {"worker", ""}, {"sanfrand", p.sanfrand}} {
		t, err := p.upperTree(program.name, program.file)
		if err != nil {
			return nil, err
		}
		if len(t.entries) == 0 {
			continue
		}
		if err := add(b.treeLayer(program.name, t)); err != nil {
			return nil, err
		}
	}
	return assemble(layers)
}

// upperTree is the content of one of the layers above the root filesystems.
func (p parts) upperTree(name, file string) (*tree, error) {
	if name != "worker" {
		return programTree("usr/bin/"+name, file)
	}
	t := newTree()
	for _, rt := range p.runtimes {
		if err := t.merge(path.Join(rootfsDir, rt.Name), p.worker); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func below(prefix string, t *tree) (*tree, error) {
	moved := newTree()
	return moved, moved.merge(prefix, t)
}

// baseTree is what sanfrand's own root has besides programs. There is no
// shell: whoever needs one takes a debug container.
func (b *builder) baseTree(ctx context.Context, rt nodeRuntime, l lock) (*tree, error) {
	certs := newTree()
	for i, p := range rt.Debian {
		if p.Name != "ca-certificates" {
			continue
		}
		deb, err := b.deb(ctx, l.Debian[i])
		if err != nil {
			return nil, err
		}
		if err := b.addDeb(ctx, certs, p, deb); err != nil {
			return nil, err
		}
	}
	if err := certs.bundleCertificates(); err != nil {
		return nil, err
	}
	t := newTree()
	// 65532 is the user that the chart gives the control plane and the gateway.
	return t, errors.Join(
		t.add(certBundle, certs.entries[certBundle]),
		t.addFile("etc/passwd", []byte("root:x:0:0:root:/:/bin/false\nsanfran:x:65532:65532:sanfran:/tmp:/bin/false\n"), false),
		t.addFile("etc/group", []byte("root:x:0:\nsanfran:x:65532:\n"), false),
		t.addFile("etc/nsswitch.conf", []byte("hosts: files dns\n"), false),
		t.addDir("tmp", stickyTmp),
	)
}

// assemble puts the layers and the configuration together.
func assemble(layers []*layer) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.ConfigFile(img, &v1.ConfigFile{
		Architecture: "amd64",
		OS:           "linux",
		Created:      v1.Time{Time: entryTime},
		Config: v1.Config{
			Entrypoint: []string{"/usr/bin/sanfrand"},
			Env:        []string{"PATH=/usr/bin"},
			WorkingDir: "/",
			Labels: map[string]string{
				"org.opencontainers.image.title":    "sanfran",
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		},
		RootFS: v1.RootFS{Type: "layers"},
	})
	if err != nil {
		return nil, err
	}
	for _, l := range layers {
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   l,
			History: v1.History{CreatedBy: l.made, Created: v1.Time{Time: entryTime}},
		})
		if err != nil {
			return nil, err
		}
	}
	return img, nil
}
