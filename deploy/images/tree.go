package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// errUnsafePath is wrapped by every refusal of an entry that could reach
// outside the tree it is added to.
var errUnsafePath = errors.New("unsafe path")

// entry is one file, folder or symbolic link of a tree. Owner and times are
// not kept: they are the same for everything (see writeTar).
type entry struct {
	mode    fs.FileMode // type bits, permissions and fs.ModeSticky
	content []byte      // of a regular file
	target  string      // of a symbolic link
}

// tree is a file tree held in memory, by clean slash-separated paths without a
// leading slash. The parents of every entry are entries too, and are folders.
// It is not safe for concurrent use.
type tree struct {
	entries map[string]*entry
}

func newTree() *tree { return &tree{entries: map[string]*entry{}} }

// cleanPath turns an archive's or a caller's name into a key of the tree. The
// root itself is "". Names that climb out are refused.
func cleanPath(name string) (string, error) {
	if strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", fmt.Errorf("%w %q", errUnsafePath, name)
	}
	clean := path.Clean(name)
	if clean == "." {
		return "", nil
	}
	return clean, nil
}

// addFile adds a regular file. Any executable bit makes it 0755, else it is
// 0644: containers read their root as another user. An earlier file of that
// name is replaced.
func (t *tree) addFile(name string, content []byte, executable bool) error {
	mode := fs.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	return t.add(name, &entry{mode: mode, content: content})
}

// addSymlink adds a symbolic link. The target is taken as it is: an absolute
// one means the root of whoever mounts the tree.
func (t *tree) addSymlink(name, target string) error {
	return t.add(name, &entry{mode: fs.ModeSymlink | 0o777, target: target})
}

// addDir adds a folder, or sets the mode of one that is there.
func (t *tree) addDir(name string, mode fs.FileMode) error {
	return t.add(name, &entry{mode: fs.ModeDir | mode})
}

func (t *tree) add(name string, e *entry) error {
	clean, err := cleanPath(name)
	if err != nil {
		return err
	}
	if clean == "" {
		if e.mode.IsDir() {
			return nil // the root is always there
		}
		return fmt.Errorf("%w %q: the root is a folder", errUnsafePath, name)
	}
	if err := t.makeParents(clean); err != nil {
		return err
	}
	if old, ok := t.entries[clean]; ok && old.mode.IsDir() != e.mode.IsDir() {
		return fmt.Errorf("%q is both a folder and not one", clean)
	}
	t.entries[clean] = e
	return nil
}

func (t *tree) makeParents(clean string) error {
	for i, c := range clean {
		if c != '/' {
			continue
		}
		parent := clean[:i]
		old, ok := t.entries[parent]
		switch {
		case !ok:
			t.entries[parent] = &entry{mode: fs.ModeDir | 0o755}
		case !old.mode.IsDir():
			// Writing below a link would land wherever it points.
			return fmt.Errorf("%w %q: its parent %q is not a folder", errUnsafePath, clean, parent)
		}
	}
	return nil
}

// merge adds every entry of other below the folder prefix.
func (t *tree) merge(prefix string, other *tree) error {
	for _, name := range other.names() {
		if err := t.add(path.Join(prefix, name), other.entries[name]); err != nil {
			return err
		}
	}
	return nil
}

// names returns all paths, sorted, so that parents come before what is in them.
func (t *tree) names() []string { return slices.Sorted(maps.Keys(t.entries)) }

// digest identifies the tree: two trees have the same digest exactly if
// writeTar gives the same bytes for both.
func (t *tree) digest() string {
	h := sha256.New()
	for _, name := range t.names() {
		e := t.entries[name]
		fmt.Fprintf(h, "%q %o %q %d\n", name, e.mode, e.target, len(e.content))
		h.Write(e.content)
	}
	return hex.EncodeToString(h.Sum(nil))
}
