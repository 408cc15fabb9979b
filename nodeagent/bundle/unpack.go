package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// ErrRefused marks an archive that holds what a bundle must not hold, is larger
// than allowed, or is not the one its digest names. Trying again is useless.
var ErrRefused = errors.New("refused")

// Limits bound one bundle. Zero fields take their defaults.
type Limits struct {
	// ArchiveBytes bounds the archive as it comes (default 512 MiB).
	ArchiveBytes int64
	// UnpackedBytes bounds the sum of the files' sizes (default 512 MiB).
	// A tar archive may say that a file is larger than its bytes (sparse).
	UnpackedBytes int64
	// Entries bounds files, folders and links together (default 100,000).
	Entries int
	// PathBytes bounds one entry's path and one link's target (default 1024).
	PathBytes int
	// Depth bounds the folders an entry may be inside of (default 64).
	Depth int
}

func (l Limits) withDefaults() Limits {
	if l.ArchiveBytes == 0 {
		l.ArchiveBytes = 512 << 20
	}
	if l.UnpackedBytes == 0 {
		l.UnpackedBytes = 512 << 20
	}
	if l.Entries == 0 {
		l.Entries = 100_000
	}
	if l.PathBytes == 0 {
		l.PathBytes = 1024
	}
	if l.Depth == 0 {
		l.Depth = 64
	}
	return l
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// unpackVerified unpacks the stream into dir and fails unless all of its bytes
// together have the digest.
func unpackVerified(ctx context.Context, stream io.Reader, dir, digest string, limits Limits) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the folder to unpack in: %w", err)
	}
	defer root.Close()

	hash := sha256.New()
	limited := &limitedReader{ctx: ctx, from: io.TeeReader(stream, hash), left: limits.ArchiveBytes, limit: limits.ArchiveBytes}
	u := &unpacker{root: root, limits: limits, kinds: map[string]kind{".": folder}}
	if err := u.unpack(tar.NewReader(limited)); err != nil {
		return err
	}
	// What follows the archive's end mark belongs to the digest too.
	if _, err := io.Copy(io.Discard, limited); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != digest {
		return refuse("the archive that came has the digest %s", got)
	}
	return nil
}

// limitedReader fails, instead of ending, where the archive gets too large.
type limitedReader struct {
	ctx         context.Context
	from        io.Reader
	left, limit int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	if int64(len(p)) > r.left+1 {
		p = p[:r.left+1]
	}
	n, err := r.from.Read(p)
	r.left -= int64(n)
	if r.left < 0 {
		return 0, refuse("the archive is larger than %d bytes", r.limit)
	}
	return n, err
}

type kind int

const (
	folder kind = iota + 1
	file
	link
)

// unpacker writes one archive. It remembers what it made, so that no path is
// ever walked through a link: parents are always real folders.
type unpacker struct {
	root   *os.Root
	limits Limits
	kinds  map[string]kind
	bytes  int64
}

func (u *unpacker) unpack(archive *tar.Reader) error {
	for entries := 0; ; {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) {
				return refuse("not a tar archive: %v", err)
			}
			return fmt.Errorf("read the archive: %w", err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if entries++; entries > u.limits.Entries {
			return refuse("more than %d entries", u.limits.Entries)
		}
		if err := u.entry(header, archive); err != nil {
			return err
		}
	}
}

func (u *unpacker) entry(header *tar.Header, content io.Reader) error {
	name, err := u.cleanPath(header.Name)
	if err != nil {
		return err
	}
	if header.Typeflag == tar.TypeDir {
		return u.makeFolders(name)
	}
	if err := u.makeFolders(path.Dir(name)); err != nil {
		return err
	}
	if _, taken := u.kinds[name]; taken {
		return refuse("%q is there twice", name)
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.writeFile(name, header, content)
	case tar.TypeSymlink:
		return u.symlink(name, header.Linkname)
	case tar.TypeLink:
		return u.hardLink(name, header.Linkname)
	default:
		return refuse("%q is neither a file nor a folder nor a link (tar type %q)", name, header.Typeflag)
	}
}

// cleanPath returns an entry's path without "./" and trailing slashes.
func (u *unpacker) cleanPath(name string) (string, error) {
	if len(name) > u.limits.PathBytes {
		return "", refuse("a path of %d bytes, more than %d", len(name), u.limits.PathBytes)
	}
	if name == "" || strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return "", refuse("the path %q is empty, absolute or holds a zero byte", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", refuse("the path %q leaves the bundle", name)
		}
	}
	clean := path.Clean(name)
	if strings.Count(clean, "/") >= u.limits.Depth {
		return "", refuse("%q is inside more than %d folders", clean, u.limits.Depth)
	}
	return clean, nil
}

// makeFolders makes a folder and those it is in; existing ones are fine.
func (u *unpacker) makeFolders(name string) error {
	switch u.kinds[name] {
	case folder:
		return nil
	case file, link:
		return refuse("%q is used as a folder but is none", name)
	}
	if err := u.makeFolders(path.Dir(name)); err != nil {
		return err
	}
	// Folders nobody listed count too: a short path makes many of them.
	if len(u.kinds) > 2*u.limits.Entries {
		return refuse("more than %d entries and folders", 2*u.limits.Entries)
	}
	if err := u.root.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make the folder %q: %w", name, err)
	}
	// Mkdir is subject to the umask; containers read as somebody else.
	if err := u.root.Chmod(name, 0o755); err != nil {
		return fmt.Errorf("open the folder %q to readers: %w", name, err)
	}
	u.kinds[name] = folder
	return nil
}

func (u *unpacker) writeFile(name string, header *tar.Header, content io.Reader) (err error) {
	if header.Size < 0 || header.Size > u.limits.UnpackedBytes-u.bytes {
		return refuse("the files are larger than %d bytes together (at %q)", u.limits.UnpackedBytes, name)
	}
	mode := os.FileMode(0o644)
	if header.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("make the file %q: %w", name, err)
	}
	defer func() {
		if closeErr := f.Close(); closeErr != nil && err == nil {
			err = fmt.Errorf("write the file %q: %w", name, closeErr)
		}
	}()
	n, err := io.Copy(f, content)
	if err != nil {
		return fmt.Errorf("write the file %q: %w", name, err)
	}
	if err := f.Chmod(mode); err != nil {
		return fmt.Errorf("open the file %q to readers: %w", name, err)
	}
	u.bytes += n
	u.kinds[name] = file
	return nil
}

// symlink makes a relative link that cannot lead out of the bundle. The kernel
// resolves ".." after links, so "a/.." need not be where the text says; with
// ".." only in front, and every parent a real folder, both agree.
func (u *unpacker) symlink(name, target string) error {
	if target == "" || len(target) > u.limits.PathBytes || strings.HasPrefix(target, "/") || strings.ContainsRune(target, 0) {
		return refuse("the link %q leads to %q: only short relative targets are allowed", name, target)
	}
	ups, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if down {
				return refuse("the link %q leads to %q: \"..\" is allowed in front only", name, target)
			}
			ups++
		default:
			down = true
		}
	}
	if ups > strings.Count(name, "/") {
		return refuse("the link %q leads to %q, outside the bundle", name, target)
	}
	if err := u.root.Symlink(target, name); err != nil {
		return fmt.Errorf("make the link %q: %w", name, err)
	}
	u.kinds[name] = link
	return nil
}

// hardLink links to a regular file that came earlier in the same archive.
func (u *unpacker) hardLink(name, target string) error {
	clean, err := u.cleanPath(target)
	if err != nil {
		return fmt.Errorf("the hard link %q: %w", name, err)
	}
	if u.kinds[clean] != file {
		return refuse("the hard link %q leads to %q, which is no file that came before it", name, target)
	}
	if err := u.root.Link(clean, name); err != nil {
		return fmt.Errorf("make the hard link %q: %w", name, err)
	}
	u.kinds[name] = file
	return nil
}
