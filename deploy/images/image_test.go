package main

import (
	"archive/tar"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// tinyImage builds an image of small parts with an empty cache. All files it
// is made from are given the time touched.
func tinyImage(t *testing.T, sanfrand string, touched time.Time) v1.Image {
	t.Helper()
	onPath(t, "npm", "mkdir node_modules && echo x > node_modules/dep.js && date > node_modules/.package-lock.json\n")
	b := newBuilder(t)
	l := withTiny(t, b)
	p := parts{runtimes: []nodeRuntime{tiny}, locks: []lock{l}, crun: tinyCrun, crunLock: lock{Debian: l.Debian}}
	src := t.TempDir()
	workerIn(t, filepath.Join(src, "worker"), "worker")
	write(t, filepath.Join(src, "bin", "sanfrand"), sanfrand)
	write(t, filepath.Join(src, "bin", "runc"), "runc")
	p.sanfrand, p.runc = filepath.Join(src, "bin", "sanfrand"), filepath.Join(src, "bin", "runc")
	if err := filepath.WalkDir(src, func(file string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(file, touched, touched)
	}); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.worker, err = b.workerTree(t.Context(), filepath.Join(src, "worker")); err != nil {
		t.Fatal(err)
	}
	img, err := b.image(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func digestOf(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

func TestSameInputGivesSameDigest(t *testing.T) {
	one := tinyImage(t, "program", time.Unix(1e9, 0))
	if err := validate.Image(one); err != nil {
		t.Fatal(err)
	}
	again := tinyImage(t, "program", time.Unix(1.5e9, 0))
	if digestOf(t, one) != digestOf(t, again) {
		t.Error("two builds of one input, of other times and with another cache, differ")
	}
	changed := tinyImage(t, "program, changed", time.Unix(1e9, 0))
	if digestOf(t, one) == digestOf(t, changed) {
		t.Error("another program gives the same digest")
	}
	a, b := layersOf(t, one), layersOf(t, changed)
	if diff := cmp.Diff(a[:len(a)-1], b[:len(b)-1]); diff != "" {
		t.Errorf("another sanfrand changes more than the last layer: %s", diff)
	}
}

func layersOf(t *testing.T, img v1.Image) []string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var digests []string
	for _, l := range layers {
		d, err := l.Digest()
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
	}
	return digests
}

func TestImageHoldsWhatItShould(t *testing.T) {
	layers, err := tinyImage(t, "program", time.Now()).Layers()
	if err != nil {
		t.Fatal(err)
	}
	root := "usr/share/sanfran/rootfs/tiny/"
	for i, want := range [][]string{
		{"etc/ssl/certs/ca-certificates.crt", "etc/passwd", "tmp/"},
		{root + "usr/local/bin/node", root + "etc/ssl/certs/ca-certificates.crt", root + "usr/bin/sh", root + "function/", root + "usr/share/doc/ca-certificates/copyright"},
		{"usr/share/doc/ca-certificates/copyright", "lib", "lib64"},
		{"usr/bin/runc"},
		{root + "opt/sanfran/worker/worker.js", root + "opt/sanfran/worker/node_modules/dep.js"},
		{"usr/bin/sanfrand"},
	} {
		files := filesOf(t, layers[i])
		for _, name := range want {
			if _, ok := files[name]; !ok {
				t.Errorf("layer %d has no %s", i, name)
			}
		}
		for name, content := range files {
			if strings.Contains(content, "never shipped") || content == "no" || strings.Contains(name, "package-lock.json") && strings.Contains(name, "node_modules") {
				t.Errorf("layer %d has %s", i, name)
			}
		}
	}
	if got := filesOf(t, layers[0])["etc/ssl/certs/ca-certificates.crt"]; got != "A\nB\n" {
		t.Errorf("certificates are %q, want sorted and one below the other", got)
	}
}

func filesOf(t *testing.T, l v1.Layer) map[string]string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	files := map[string]string{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = string(content)
	}
}

func TestSecondBuildUsesTheCache(t *testing.T) {
	b := newBuilder(t)
	key := "k"
	build := func() (*tree, error) {
		tr := newTree()
		return tr, tr.addFile("a", []byte("x"), false)
	}
	first, err := b.cachedLayer(key, "x", build)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.cachedLayer(key, "x", func() (*tree, error) {
		t.Error("built again")
		return build()
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.meta, second.meta); diff != "" {
		t.Error(diff)
	}
	if err := os.Truncate(first.file, 3); err != nil {
		t.Fatal(err)
	}
	third, err := b.cachedLayer(key, "x", build)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Layer(third); err != nil {
		t.Errorf("a damaged cache entry was used: %v", err)
	}
}

func TestPush(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	ref, err := parseRef("--push", strings.TrimPrefix(server.URL, "http://")+"/team/sanfran:v1")
	if err != nil {
		t.Fatal(err)
	}
	img := tinyImage(t, "program", time.Now())
	if err := push(t.Context(), ref, img); err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pulled); err != nil {
		t.Error(err)
	}
	if got, want := digestOf(t, pulled), digestOf(t, img); got != want {
		t.Errorf("pulled %s, pushed %s", got, want)
	}
	server.Close()
	if err := push(t.Context(), ref, img); err == nil || !strings.Contains(err.Error(), ref.Name()) {
		t.Errorf("push to a registry that is gone: %v", err)
	}
}

func TestArchiveIsAnOCILayoutWithItsName(t *testing.T) {
	img := tinyImage(t, "program", time.Now())
	ref, err := parseRef("--ref", "sanfran.local/sanfran:dev")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sanfran.tar")
	if err := writeArchive(file, ref, img); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := newTree()
	if err := content.addTar(f, keepAll); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := content.unpack(dir); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Error(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if got := manifest.Manifests[0].Digest.String(); got != digestOf(t, img) {
		t.Errorf("the archive has image %s, want %s", got, digestOf(t, img))
	}
	want := map[string]string{"io.containerd.image.name": "sanfran.local/sanfran:dev", "org.opencontainers.image.ref.name": "dev"}
	if diff := cmp.Diff(want, manifest.Manifests[0].Annotations); diff != "" {
		t.Error(diff)
	}
}

func TestNameMustBeComplete(t *testing.T) {
	for _, ref := range []string{"", "sanfran", "example.test/sanfran", "example.test/sanfran@sha256:" + strings.Repeat("0", 64), "example.test/San:x"} {
		if _, err := parseRef("--ref", ref); err == nil || !strings.Contains(err.Error(), "--ref") {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
