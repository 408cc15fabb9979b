package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// parseRef checks an image's name. It must say its registry and tag: what a
// runtime would guess differs from one to the next.
func parseRef(flag, ref string) (name.Reference, error) {
	r, err := name.ParseReference(ref, name.StrictValidation)
	if err != nil {
		return nil, fmt.Errorf("%s %q (want registry.example/path:tag): %w", flag, ref, err)
	}
	if _, ok := r.(name.Tag); !ok {
		return nil, fmt.Errorf("%s %q: a digest is what building gives; name a tag", flag, ref)
	}
	return r, nil
}

// writeArchive writes img as a tar of an OCI layout that `ctr images import`,
// `docker load` (25 and later) and `podman load` read, under the name ref. The
// file has either its whole new content or its old one.
func writeArchive(file string, ref name.Reference, img v1.Image) error {
	return writeAtomic(file, func(w io.Writer) error { return writeLayout(w, ref, img) })
}

func writeLayout(w io.Writer, ref name.Reference, img v1.Image) error {
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2,
		MediaType:     types.OCIImageIndex,
		Manifests: []v1.Descriptor{{
			MediaType: types.OCIManifestSchema1,
			Size:      int64(len(manifest)),
			Digest:    digest,
			Platform:  &v1.Platform{OS: "linux", Architecture: "amd64"},
			Annotations: map[string]string{
				"io.containerd.image.name":          ref.Name(), // containerd's name
				"org.opencontainers.image.ref.name": ref.Identifier(),
			},
		}},
	})
	if err != nil {
		return err
	}
	a := archive{tw: tar.NewWriter(w), seen: map[string]bool{}}
	a.add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	a.add("index.json", index)
	a.add(blobName(digest), manifest)
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	configDigest, err := img.ConfigName()
	if err != nil {
		return err
	}
	a.add(blobName(configDigest), config)
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		a.addLayer(l)
	}
	if a.err != nil {
		return a.err
	}
	return a.tw.Close()
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

// archive writes files into a tar, each name once, and keeps the first error.
type archive struct {
	tw   *tar.Writer
	seen map[string]bool
	err  error
}

func (a *archive) add(file string, content []byte) {
	if a.header(file, int64(len(content))) {
		_, a.err = a.tw.Write(content)
	}
}

func (a *archive) addLayer(l v1.Layer) {
	digest, err := l.Digest()
	if err != nil {
		a.err = err
		return
	}
	size, err := l.Size()
	if err != nil {
		a.err = err
		return
	}
	if !a.header(blobName(digest), size) {
		return
	}
	r, err := l.Compressed()
	if err != nil {
		a.err = err
		return
	}
	defer r.Close()
	_, a.err = io.Copy(a.tw, r)
}

// header begins a file and reports whether its content is to follow.
func (a *archive) header(file string, size int64) bool {
	if a.err != nil || a.seen[file] {
		return false
	}
	a.seen[file] = true
	a.err = a.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: file, Size: size, Mode: 0o644, ModTime: entryTime})
	return a.err == nil
}

// push writes img to a registry, with the credentials that docker, podman or a
// credential helper have stored for it. Registries on this machine's loopback
// are spoken to without TLS.
func push(ctx context.Context, ref name.Reference, img v1.Image) error {
	if err := remote.Write(ref, img, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}
