package provider

import (
	"archive/tar"
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPackBundle(t *testing.T) {
	files := map[string][]byte{"index.js": []byte("x"), "lib/a/b.js": []byte("y"), "lib-z.js": nil}
	digest, archive, err := packBundle(files)
	if err != nil {
		t.Fatal(err)
	}
	// The digest is part of what is stored: a change of the format is a change
	// of every revision.
	if want := "sha256:805c8ef1937c8ad654f6252828999692d09c589aff2602a09b93a303c998a0f4"; digest != want {
		t.Errorf("digest %s, want %s", digest, want)
	}
	again, _, err := packBundle(files)
	if err != nil || again != digest {
		t.Errorf("packed again: %s, %v; want %s", again, err, digest)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, header.Name)
		body, _ := io.ReadAll(r)
		if want := files[header.Name]; !bytes.Equal(body, want) {
			t.Errorf("%s holds %q, want %q", header.Name, body, want)
		}
	}
	if diff := cmp.Diff([]string{"index.js", "lib/", "lib-z.js", "lib/a/", "lib/a/b.js"}, names); diff != "" {
		t.Error(diff)
	}
}

func TestPackBundleRefusesNames(t *testing.T) {
	for _, name := range []string{"", "/a", "../a", "..", "a/../b", "a//b", "./a"} {
		if _, _, err := packBundle(map[string][]byte{name: nil}); err == nil {
			t.Errorf("%q was packed", name)
		}
	}
	if _, _, err := packBundle(map[string][]byte{"a": nil, "a/b": nil}); err == nil {
		t.Error("a file and a folder of the same name were packed")
	}
}
