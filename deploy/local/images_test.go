package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestArchive(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!"), 0o755); err != nil {
		t.Fatal(err)
	}
	i := image{
		name: "sanfran.local/x:1", entrypoint: []string{"/x"},
		files: []imageFile{{path: "x", mode: 0o755, source: program}, {path: "tmp", dir: true, mode: 0o1777}, {path: "y", link: "x"}},
	}
	var first, second bytes.Buffer
	if err := i.archive(&first); err != nil {
		t.Fatal(err)
	}
	if err := i.archive(&second); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Errorf("the same files made another archive (%v)", err)
	}
	entries := map[string][]byte{}
	for in := tar.NewReader(&first); ; {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entries[header.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
	var manifest []struct {
		Config           string
		RepoTags, Layers []string
	}
	if err := json.Unmarshal(entries["manifest.json"], &manifest); err != nil || len(manifest) != 1 {
		t.Fatalf("manifest %s (%v)", entries["manifest.json"], err)
	}
	if manifest[0].RepoTags[0] != i.name || entries[manifest[0].Config] == nil || entries[manifest[0].Layers[0]] == nil {
		t.Errorf("manifest %+v does not fit the archive", manifest)
	}
	i.files = append(i.files, imageFile{path: "z", source: program + ".absent"})
	if err := i.archive(io.Discard); err == nil || !strings.Contains(err.Error(), i.name) {
		t.Errorf("a file that is missing: %v", err)
	}
}

func TestWgetScriptTakesTimeoutsOut(t *testing.T) {
	dir := t.TempDir()
	for name, script := range map[string]string{
		"wget":    wgetScript,
		"busybox": "#!/bin/sh\necho busybox \"$@\"\n",
		"timeout": "#!/bin/sh\necho timeout \"$@\"\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for arguments, want := range map[string]string{
		"-qO- http://a/":             "busybox wget -qO- http://a/\n",
		"-T 3 -qO- http://a/":        "timeout 3 busybox wget -qO- http://a/\n",
		"-q -T5 -O- http://a/":       "timeout 5 busybox wget -q -O- http://a/\n",
		"-qO- http://a/ --timeout=2": "timeout 2 busybox wget -qO- http://a/\n",
	} {
		command := exec.Command(filepath.Join(dir, "wget"), strings.Fields(arguments)...)
		command.Env = []string{"PATH=" + dir}
		output, err := command.CombinedOutput()
		if err != nil || string(output) != want {
			t.Errorf("wget %s: %q (%v), want %q", arguments, output, err, want)
		}
	}
}
