package provider

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// packBundle makes files (contents by relative path) an uncompressed tar
// archive and returns its digest. Equal files give equal bytes: entries are
// sorted, folders come before what is in them, and nothing of the time or the
// place it was made is in it.
func packBundle(files map[string][]byte) (digest string, archive []byte, err error) {
	folders := map[string]bool{}
	for name := range files {
		if name == "" || path.Clean(name) != name || strings.HasPrefix(name, "/") || name == ".." || strings.HasPrefix(name, "../") {
			return "", nil, fmt.Errorf("file name %q: not a clean relative path", name)
		}
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	// A folder sorts before its files, and the names are distinct unless a
	// file is where a folder has to be.
	names := slices.Collect(maps.Keys(files))
	for dir := range folders {
		if _, ok := files[dir]; ok {
			return "", nil, fmt.Errorf("file name %q: another file has it as its folder", dir)
		}
		names = append(names, dir)
	}
	slices.Sort(names)

	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, name := range names {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		if folders[name] {
			header.Name, header.Mode, header.Typeflag = name+"/", 0o755, tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return "", nil, fmt.Errorf("pack %q: %w", name, err)
		}
		if _, err := w.Write(files[name]); err != nil {
			return "", nil, fmt.Errorf("pack %q: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return "", nil, fmt.Errorf("end the archive: %w", err)
	}
	sum := sha256.Sum256(buffer.Bytes())
	return "sha256:" + hex.EncodeToString(sum[:]), buffer.Bytes(), nil
}
