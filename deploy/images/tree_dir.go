package main

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// addDirFrom adds the files below the folder dir of this machine under prefix.
// skip gets slash-separated paths relative to dir; a skipped folder is not
// entered. Symbolic links that leave dir are refused: their content would
// depend on the machine.
func (t *tree) addDirFrom(dir, prefix string, skip func(name string, isDir bool) bool) error {
	return filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if rel == "." {
			return nil
		}
		if skip(rel, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		name := path.Join(prefix, rel)
		switch {
		case d.IsDir():
			return t.addDir(name, 0o755)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			if path.IsAbs(target) || strings.HasPrefix(path.Join(path.Dir(rel), target)+"/", "../") {
				return fmt.Errorf("%w: link %s -> %s leaves %s", errUnsafePath, rel, target, dir)
			}
			return t.addSymlink(name, target)
		case d.Type().IsRegular():
			info, err := d.Info()
			if err != nil {
				return err
			}
			content, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			return t.addFile(name, content, info.Mode()&0o111 != 0)
		default:
			return fmt.Errorf("%s is neither file, folder nor link", file)
		}
	})
}

// unpack writes the tree into the existing folder dir. Nothing is written
// outside dir, whatever links the tree has.
func (t *tree) unpack(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range t.names() {
		if err := t.entries[name].unpack(root, name); err != nil {
			return fmt.Errorf("unpack %s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}

func (e *entry) unpack(root *os.Root, name string) error {
	switch {
	case e.mode.IsDir():
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return root.Chmod(name, e.mode&(fs.ModePerm|fs.ModeSticky)) // the umask must not show
	case e.mode&fs.ModeSymlink != 0:
		return root.Symlink(e.target, name)
	default:
		if err := root.WriteFile(name, e.content, 0o600); err != nil {
			return err
		}
		if err := root.Chmod(name, e.mode.Perm()); err != nil {
			return err
		}
		return root.Chtimes(name, entryTime, entryTime)
	}
}
