package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Names of the images that every cluster has. They are nowhere to be pulled
// from.
const (
	pauseImage   = "sanfran.local/pause:1"
	coreDNSImage = "sanfran.local/coredns:" + coreDNSVersion
	toolboxImage = "sanfran.local/toolbox:1"
)

// busybox is where Debian's busybox-static puts the program.
const busybox = "/bin/busybox"

// imageFile is one entry of an image's only layer.
type imageFile struct {
	path   string // relative to the root
	mode   int64  // permissions; a folder if dir
	dir    bool
	link   string // target of a symbolic link
	source string // file of the machine to copy
	text   string // content, without source
}

// image is a small image made of files of this machine.
type image struct {
	name        string
	files       []imageFile
	entrypoint  []string
	command     []string
	environment []string
}

// images lists the images that every cluster has.
func images(ctx context.Context, bin binaries) ([]image, error) {
	toolbox, err := toolboxFiles(ctx)
	if err != nil {
		return nil, err
	}
	// A folder /etc of the image takes hosts and resolv.conf of the pod.
	account := []imageFile{
		{path: "etc", dir: true, mode: 0o755},
		{path: "etc/passwd", mode: 0o644, text: "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"},
		{path: "etc/group", mode: 0o644, text: "root:x:0:\nnogroup:x:65534:\n"},
		{path: "tmp", dir: true, mode: 0o1777},
	}
	return []image{
		{name: pauseImage, files: []imageFile{{path: "pause", mode: 0o755, source: bin["pause"]}}, entrypoint: []string{"/pause"}},
		{
			name:       coreDNSImage,
			files:      append(slices.Clone(account), imageFile{path: "coredns", mode: 0o755, source: bin["coredns"]}),
			entrypoint: []string{"/coredns"},
		},
		{name: toolboxImage, files: append(slices.Clone(account), toolbox...), command: []string{"sh"}},
	}, nil
}

// wgetScript stands before busybox's wget, which in Debian's build crashes when
// it is given a timeout: timeout does that instead.
const wgetScript = `#!/bin/sh
seconds=
count=$#
while [ "$count" -gt 0 ]; do
	argument=$1
	shift
	count=$((count - 1))
	case $argument in
	-T | --timeout)
		seconds=$1
		shift
		count=$((count - 1))
		;;
	-T*) seconds=${argument#-T} ;;
	--timeout=*) seconds=${argument#--timeout=} ;;
	*) set -- "$@" "$argument" ;;
	esac
done
exec ${seconds:+timeout "$seconds"} busybox wget "$@"
`

// toolboxFiles are busybox under every name that it answers to.
func toolboxFiles(ctx context.Context) ([]imageFile, error) {
	list, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", busybox, err)
	}
	files := []imageFile{
		{path: "bin", dir: true, mode: 0o755},
		{path: "root", dir: true, mode: 0o700},
		{path: "bin/busybox", mode: 0o755, source: busybox},
	}
	for name := range strings.FieldsSeq(string(list)) {
		switch name {
		case "busybox":
		case "wget":
			files = append(files, imageFile{path: "bin/wget", mode: 0o755, text: wgetScript})
		default:
			files = append(files, imageFile{path: "bin/" + name, link: "busybox"})
		}
	}
	return files, nil
}

// archive writes the image as an archive that `docker save` could have
// written. The same files make the same bytes.
func (i image) archive(w io.Writer) error {
	layer, err := i.layer()
	if err != nil {
		return fmt.Errorf("image %s: %w", i.name, err)
	}
	diff := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": map[string]any{
			"Env":        append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, i.environment...),
			"Entrypoint": i.entrypoint,
			"Cmd":        i.command,
			"WorkingDir": "/",
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(diff[:])}},
	})
	if err != nil {
		return err
	}
	configName := sha256.Sum256(config)
	configFile := hex.EncodeToString(configName[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": configFile, "RepoTags": []string{i.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	out := tar.NewWriter(w)
	for _, file := range []struct {
		name    string
		content []byte
	}{{configFile, config}, {"layer.tar", layer}, {"manifest.json", manifest}} {
		if err := out.WriteHeader(&tar.Header{Name: file.name, Mode: 0o644, Size: int64(len(file.content)), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		if _, err := out.Write(file.content); err != nil {
			return err
		}
	}
	return out.Close()
}

func (i image) layer() ([]byte, error) {
	var buffer bytes.Buffer
	out := tar.NewWriter(&buffer)
	for _, file := range i.files {
		header := &tar.Header{Name: file.path, Mode: file.mode, Format: tar.FormatUSTAR, Typeflag: tar.TypeReg}
		content := []byte(file.text)
		switch {
		case file.dir:
			header.Typeflag, header.Name = tar.TypeDir, file.path+"/"
		case file.link != "":
			header.Typeflag, header.Linkname, header.Mode = tar.TypeSymlink, file.link, 0o777
		case file.source != "":
			var err error
			if content, err = os.ReadFile(file.source); err != nil {
				return nil, err
			}
		}
		header.Size = int64(len(content))
		if err := out.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := out.Write(content); err != nil {
			return nil, err
		}
	}
	err := out.Close()
	return buffer.Bytes(), err
}

// loadImages makes sure that the node's runtime has the images.
func (n node) loadImages(ctx context.Context, p process, bin binaries, wanted []image) error {
	have, err := p.run(ctx, false, nil, bin["ctr"], "--namespace=k8s.io", "images", "list", "-q")
	if err != nil {
		return err
	}
	for _, i := range wanted {
		var archive bytes.Buffer
		if err := i.archive(&archive); err != nil {
			return err
		}
		sum := sha256.Sum256(archive.Bytes())
		marker := n.path("images", strings.NewReplacer("/", "_", ":", "_").Replace(i.name))
		noted, _ := os.ReadFile(marker)
		if string(noted) == hex.EncodeToString(sum[:]) && slices.Contains(strings.Fields(have), i.name) {
			continue
		}
		if err := n.importImage(ctx, p, bin, &archive); err != nil {
			return fmt.Errorf("node %s: image %s: %w", n.name(), i.name, err)
		}
		if err := writeFile(marker, []byte(hex.EncodeToString(sum[:])), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (n node) importImage(ctx context.Context, p process, bin binaries, archive io.Reader) error {
	_, err := p.run(ctx, false, archive, bin["ctr"], "--namespace=k8s.io", "images", "import", "-")
	return err
}

// loadArchive gives every node the images of an OCI or docker archive.
func (c *cluster) loadArchive(ctx context.Context, bin binaries, path string) error {
	for _, n := range c.nodes() {
		p, ok := n.process()
		if !ok {
			return fmt.Errorf("node %s does not run; `make cluster CLUSTER=%s` starts it", n.name(), c.Name)
		}
		archive, err := os.Open(path)
		if err != nil {
			return err
		}
		err = n.importImage(ctx, p, bin, archive)
		archive.Close()
		if err != nil {
			return fmt.Errorf("%s: node %s: %w", filepath.Base(path), n.name(), err)
		}
	}
	return nil
}
