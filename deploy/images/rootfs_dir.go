package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// keyLength is how much of a sha256 names a folder of the cache.
const keyLength = 16

// unpackRootfs lays the root filesystem of rt, with the worker, into
// <dir>/<runtime>-<key>, points the link <dir>/<runtime> at it and returns the
// keyed folder. The folder appears complete or not at all and is never changed
// afterwards, so it may serve as a lower layer while newer ones come; a second
// call for the same input only looks. Files of the same content are shared by
// hard links between folders: do not write into them.
func (b *builder) unpackRootfs(ctx context.Context, dir string, rt nodeRuntime, l lock, worker *tree) (string, error) {
	key, err := rootfsKey(rt, l)
	if err != nil {
		return "", err
	}
	bare := filepath.Join(dir, rt.Name+"-"+key[:keyLength])
	target := bare
	if len(worker.entries) > 0 {
		target = filepath.Join(dir, rt.Name+"-"+sha256Hex([]byte(key + worker.digest()))[:keyLength])
	}
	if _, err := os.Stat(target); err != nil {
		if err := b.makeRootfs(ctx, bare, target, rt, l, worker); err != nil {
			return "", err
		}
	}
	return target, pointLink(filepath.Join(dir, rt.Name), filepath.Base(target))
}

func (b *builder) makeRootfs(ctx context.Context, bare, target string, rt nodeRuntime, l lock, worker *tree) error {
	if _, err := os.Stat(bare); err != nil {
		t, err := b.nodeRootfs(ctx, rt, l)
		if err != nil {
			return err
		}
		b.step("unpacking %s to %s", rt.Name, bare)
		if err := makeDir(bare, t.unpack); err != nil {
			return err
		}
	}
	if target == bare {
		return nil
	}
	b.step("adding the worker: %s", target)
	return makeDir(target, func(tmp string) error {
		if err := linkTree(bare, tmp); err != nil {
			return err
		}
		return worker.unpack(tmp)
	})
}

// makeDir makes a folder that appears under its name when fill has succeeded.
func makeDir(name string, fill func(tmp string) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(name), ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	return renameInto(tmp, name)
}

// linkTree makes the folder to a copy of from whose files are hard links.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil || rel == "." {
			return err
		}
		copied := filepath.Join(to, rel)
		switch {
		case d.IsDir():
			info, err := d.Info()
			if err != nil {
				return err
			}
			if err := os.Mkdir(copied, 0o755); err != nil {
				return err
			}
			return os.Chmod(copied, info.Mode())
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(file)
			if err != nil {
				return err
			}
			return os.Symlink(target, copied)
		default:
			return os.Link(file, copied)
		}
	})
}

// pointLink makes link a symbolic link to target, replacing an older one in
// one step.
func pointLink(link, target string) error {
	if old, err := os.Readlink(link); err == nil && old == target {
		return nil
	}
	if info, err := os.Lstat(link); err == nil && info.Mode()&fs.ModeSymlink == 0 {
		return fmt.Errorf("%s is in the way: a symbolic link is kept under that name; remove it or choose another --rootfs-dir", link)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(link), ".link-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Symlink(target, filepath.Join(tmp, "link")); err != nil {
		return err
	}
	return os.Rename(filepath.Join(tmp, "link"), link)
}
