package bundle

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
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
	// NamesBytes bounds the paths of all entries together, which the unpacker
	// keeps in memory (default 16 MiB).
	NamesBytes int
	// Depth bounds the folders an entry may be inside of (default 64).
	Depth int
}

func (l Limits) withDefaults() Limits {
	set(&l.ArchiveBytes, 512<<20)
	set(&l.UnpackedBytes, 512<<20)
	set(&l.Entries, 100_000)
	set(&l.PathBytes, 1024)
	set(&l.NamesBytes, 16<<20)
	set(&l.Depth, 64)
	return l
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// maxName is what Linux takes as the name of one file.
const maxName = 255

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRefused, fmt.Sprintf(format, args...))
}

// short quotes a name from an archive for a message that people read.
func short(name string) string { return fmt.Sprintf("%.200q", name) }

type kind int

const (
	folder kind = iota + 1
	file
	link
)

// made is an entry that was unpacked.
type made struct {
	kind       kind
	executable bool
	size       int64  // of a file
	sum        uint32 // of a file's bytes
	target     string // of a link
}

// unpacker writes one archive. It remembers what it made, so that no path is
// ever walked through a link: parents are always real folders.
type unpacker struct {
	limits Limits
	// claim is asked before anything is written for so many bytes on the disk.
	claim func(bytes int64) error

	// shape and content are of what was made.
	shape, content fingerprint

	root   *os.Root
	made   map[string]made // by path
	names  int             // bytes of the paths in made
	bytes  int64
	buffer []byte
	last   string // the entry that is being unpacked, as the archive names it
}

// unpackVerified unpacks the stream into dir and fails unless all of its bytes
// together have the digest.
func (u *unpacker) unpackVerified(ctx context.Context, stream io.Reader, dir, digest string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open the folder to unpack in: %w", err)
	}
	defer root.Close()
	u.root, u.made, u.buffer = root, map[string]made{".": {kind: folder}}, make([]byte, 64<<10)

	hash := sha256.New()
	limited := &limitedReader{ctx: ctx, from: io.TeeReader(stream, hash), left: u.limits.ArchiveBytes, limit: u.limits.ArchiveBytes}
	if err := u.unpack(tar.NewReader(limited)); err != nil {
		return err
	}
	// What follows the archive's end mark belongs to the digest too. Other
	// programs would unpack what is there.
	if _, err := io.Copy(zeros{}, limited); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != digest {
		return refuse("the archive that came has the digest %s", got)
	}
	return nil
}

// zeros takes what tar pads archives with, and nothing else.
type zeros struct{}

// Write implements io.Writer.
func (zeros) Write(p []byte) (int, error) {
	for i, b := range p {
		if b != 0 {
			return i, refuse("the archive goes on after its end")
		}
	}
	return len(p), nil
}

// limitedReader fails, instead of ending, where the archive gets too large.
type limitedReader struct {
	ctx         context.Context
	from        io.Reader
	left, limit int64
}

// Read implements io.Reader.
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

func (u *unpacker) unpack(archive *tar.Reader) error {
	for entries := 0; ; {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if errors.Is(err, tar.ErrHeader) {
				err = refuse("not a tar archive: %v", err)
			}
			return fmt.Errorf("read the archive behind the entry %s: %w", short(u.last), err)
		}
		u.last = header.Name
		if entries++; entries > u.limits.Entries {
			return refuse("more than %d entries, of which %s is the next", u.limits.Entries, short(header.Name))
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
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
	if _, taken := u.made[name]; taken {
		return refuse("%s is there twice", short(name))
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.writeFile(name, header, content)
	case tar.TypeSymlink:
		return u.symlink(name, header.Linkname)
	case tar.TypeLink:
		return u.hardLink(name, header.Linkname)
	default:
		return refuse("%s is neither a file nor a folder nor a link (tar type %q)", short(name), header.Typeflag)
	}
}

// remember notes what was made under a name.
func (u *unpacker) remember(name string, e made) {
	u.made[name] = e
	u.shape.add(e, name, false)
	u.content.add(e, name, true)
}

// room is asked before an entry of a clean path is made that takes so many
// bytes on the disk.
func (u *unpacker) room(name string, bytes int64) error {
	if u.names += len(name); u.names > u.limits.NamesBytes {
		return refuse("the names of its entries have more than %d bytes together (at %s)", u.limits.NamesBytes, short(name))
	}
	if err := u.claim(bytes); err != nil {
		return fmt.Errorf("%s: %w", short(name), err)
	}
	return nil
}

// cleanPath returns an entry's path without "./" and trailing slashes.
func (u *unpacker) cleanPath(name string) (string, error) {
	if len(name) > u.limits.PathBytes {
		return "", refuse("the path %s has %d bytes, more than %d", short(name), len(name), u.limits.PathBytes)
	}
	if name == "" || strings.HasPrefix(name, "/") || strings.ContainsRune(name, 0) {
		return "", refuse("the path %s is empty, absolute or holds a zero byte", short(name))
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return "", refuse("the path %s leaves the bundle", short(name))
		case len(part) > maxName:
			return "", refuse("in the path %s is a name of %d bytes, more than %d", short(name), len(part), maxName)
		}
	}
	clean := path.Clean(name)
	if strings.Count(clean, "/") >= u.limits.Depth {
		return "", refuse("%s is inside more than %d folders", short(clean), u.limits.Depth)
	}
	return clean, nil
}

// makeFolders makes a folder and those it is in; existing ones are fine.
func (u *unpacker) makeFolders(name string) error {
	switch u.made[name].kind {
	case folder:
		return nil
	case file, link:
		return refuse("%s is used as a folder but is none", short(name))
	}
	if err := u.makeFolders(path.Dir(name)); err != nil {
		return err
	}
	// Folders nobody listed count too: a short path makes many of them.
	if len(u.made) > 2*u.limits.Entries {
		return refuse("more than %d entries and folders (at %s)", 2*u.limits.Entries, short(name))
	}
	if err := u.room(name, blockSize); err != nil {
		return err
	}
	if err := u.root.Mkdir(name, 0o755); err != nil {
		return fmt.Errorf("make the folder %s: %w", short(name), err)
	}
	// Mkdir is subject to the umask; containers read as somebody else.
	if err := u.root.Chmod(name, 0o755); err != nil {
		return fmt.Errorf("open the folder %s to readers: %w", short(name), err)
	}
	u.remember(name, made{kind: folder})
	return nil
}

func (u *unpacker) writeFile(name string, header *tar.Header, content io.Reader) (err error) {
	if header.Size < 0 || header.Size > u.limits.UnpackedBytes-u.bytes {
		return refuse("the files are larger than %d bytes together (at %s, of %d bytes)", u.limits.UnpackedBytes, short(name), header.Size)
	}
	if err := u.room(name, blocks(header.Size)); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if header.Mode&0o111 != 0 {
		mode = 0o755
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("make the file %s: %w", short(name), err)
	}
	defer func() {
		if closeErr := f.Close(); closeErr != nil && err == nil {
			err = fmt.Errorf("write the file %s: %w", short(name), closeErr)
		}
	}()
	sum := crc32.New(castagnoli)
	n, err := io.CopyBuffer(io.MultiWriter(f, sum), content, u.buffer)
	if err != nil {
		return fmt.Errorf("write the file %s: %w", short(name), err)
	}
	if err := f.Chmod(mode); err != nil {
		return fmt.Errorf("open the file %s to readers: %w", short(name), err)
	}
	u.bytes += n
	u.remember(name, made{kind: file, executable: mode&0o111 != 0, size: n, sum: sum.Sum32()})
	return nil
}

// symlink makes a relative link that cannot lead out of the bundle. The kernel
// resolves ".." after links, so "a/.." need not be where the text says; with
// ".." only in front, and every parent a real folder, both agree.
func (u *unpacker) symlink(name, target string) error {
	if target == "" || len(target) > u.limits.PathBytes || strings.HasPrefix(target, "/") || strings.ContainsRune(target, 0) {
		return refuse("the link %s leads to %s: only short relative targets are allowed", short(name), short(target))
	}
	ups, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if down {
				return refuse("the link %s leads to %s: \"..\" is allowed in front only", short(name), short(target))
			}
			ups++
		default:
			down = true
		}
	}
	if ups > strings.Count(name, "/") {
		return refuse("the link %s leads to %s, outside the bundle", short(name), short(target))
	}
	if err := u.room(name, blockSize); err != nil {
		return err
	}
	if err := u.root.Symlink(target, name); err != nil {
		return fmt.Errorf("make the link %s: %w", short(name), err)
	}
	u.remember(name, made{kind: link, target: target})
	return nil
}

// hardLink links to a regular file that came earlier in the same archive.
func (u *unpacker) hardLink(name, target string) error {
	clean, err := u.cleanPath(target)
	if err != nil {
		return fmt.Errorf("the hard link %s: %w", short(name), err)
	}
	original := u.made[clean]
	if original.kind != file {
		return refuse("the hard link %s leads to %s, which is no file that came before it", short(name), short(target))
	}
	if err := u.room(name, blockSize); err != nil {
		return err
	}
	if err := u.root.Link(clean, name); err != nil {
		return fmt.Errorf("make the hard link %s: %w", short(name), err)
	}
	u.remember(name, original)
	return nil
}
