package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"
)

// entryTime is the modification time of everything in a layer. A constant
// keeps digests equal; it is not 1970 because zip tools, which some functions
// use on their own files, know no time before 1980.
var entryTime = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// maxFile bounds a single file read from an archive; Node.js itself has 127 MB.
const maxFile = 512 << 20

// writeTar writes the tree as a tar whose bytes depend on nothing but the
// tree: sorted, owner 0:0, one fixed time.
func (t *tree) writeTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, name := range t.names() {
		e := t.entries[name]
		h := &tar.Header{Name: name, Mode: int64(e.mode.Perm()), ModTime: entryTime, Format: tar.FormatPAX}
		if e.mode&fs.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		switch {
		case e.mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case e.mode&fs.ModeSymlink != 0:
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
		default:
			h.Typeflag, h.Size = tar.TypeReg, int64(len(e.content))
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("tar entry %s: %w", name, err)
		}
		if _, err := tw.Write(e.content); err != nil {
			return fmt.Errorf("tar entry %s: %w", name, err)
		}
	}
	return tw.Close()
}

// addTar reads a tar into the tree. rename says under which name an entry is
// added, or "" to leave it out; it gets cleaned names. Names that climb out,
// entries below a link, hard links to what is not in the tree, and devices are
// refused, also where rename would have left them out.
func (t *tree) addTar(r io.Reader, rename func(name string) string) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		clean, err := cleanPath(h.Name)
		if err != nil {
			return err
		}
		name := rename(clean)
		if name == "" {
			switch h.Typeflag {
			case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink:
				continue
			}
		}
		if err := t.addTarEntry(tr, h, name, rename); err != nil {
			return fmt.Errorf("tar entry %q: %w", h.Name, err)
		}
	}
}

func (t *tree) addTarEntry(tr *tar.Reader, h *tar.Header, name string, rename func(string) string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		return t.addDir(name, 0o755)
	case tar.TypeSymlink:
		return t.addSymlink(name, h.Linkname)
	case tar.TypeLink:
		target, err := cleanPath(h.Linkname)
		if err != nil {
			return err
		}
		linked, ok := t.entries[rename(target)]
		if !ok || !linked.mode.IsRegular() {
			return fmt.Errorf("%w: hard link to %q, which is no file read before it", errUnsafePath, h.Linkname)
		}
		return t.add(name, linked)
	case tar.TypeReg:
		if h.Size > maxFile {
			return fmt.Errorf("%d bytes are more than the %d expected of any file", h.Size, maxFile)
		}
		content := make([]byte, h.Size)
		if _, err := io.ReadFull(tr, content); err != nil {
			return err
		}
		return t.addFile(name, content, h.Mode&0o111 != 0)
	default:
		return fmt.Errorf("%w: an entry of type %q (device, fifo or unknown) has no place here", errUnsafePath, h.Typeflag)
	}
}

// keepAll is the rename of addTar that takes everything as it is.
func keepAll(name string) string { return path.Clean(name) }
