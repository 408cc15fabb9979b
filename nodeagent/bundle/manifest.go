package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// manifestFormat is the version of the manifest and of all that it stands
// beside. A bundle of another version is fetched again.
const manifestFormat = 1

// manifest says what an unpacked bundle consists of. It lies beside the files,
// and is written after them.
type manifest struct {
	Format int
	// Boot is the id of the boot in which every byte was last known to be right.
	Boot string
	// Bytes is what the bundle takes of the store's budget.
	Bytes int64
	// Shape is made of the names, kinds and sizes of all entries, Content of the
	// bytes too.
	Shape, Content fingerprint
}

const manifestName = "manifest.json"

func readManifest(dir string) (*manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifestName))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%w: its manifest: %w", errDamaged, err)
	}
	if m.Format != manifestFormat || m.Bytes <= 0 {
		return nil, fmt.Errorf("%w: its manifest has format %d and says %d bytes, want format %d", errDamaged, m.Format, m.Bytes, manifestFormat)
	}
	return &m, nil
}

// write replaces the manifest in dir in one step.
func (m *manifest) write(dir string) error {
	data, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode the manifest: %w", err)
	}
	partial := filepath.Join(dir, manifestName+".partial")
	if err := os.WriteFile(partial, data, 0o600); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	if err := os.Rename(partial, filepath.Join(dir, manifestName)); err != nil {
		return fmt.Errorf("write the manifest: %w", err)
	}
	return nil
}

// compare looks whether the bundle in dir is what the manifest says, down to the
// bytes if every is set. An error that wraps errDamaged says that it is not.
func (m *manifest) compare(ctx context.Context, dir string, every bool) error {
	shape, content, err := examine(ctx, filepath.Join(dir, "content"), every)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", errDamaged, err)
	case shape != m.Shape:
		return fmt.Errorf("%w: its files are not those that were unpacked", errDamaged)
	case every && content != m.Content:
		return fmt.Errorf("%w: the content of its files is not what was unpacked", errDamaged)
	}
	return nil
}

// fingerprint identifies a set of entries in any order. It finds damage, not
// malice: who can change a bundle can change its manifest.
type fingerprint [sha256.Size]byte

// MarshalText implements encoding.TextMarshaler.
func (f fingerprint) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, f[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *fingerprint) UnmarshalText(text []byte) error {
	decoded, err := hex.DecodeString(string(text))
	if err != nil || len(decoded) != len(f) {
		return fmt.Errorf("%.100q is no fingerprint", text)
	}
	copy(f[:], decoded)
	return nil
}

// add adds an entry, whose name no other has.
func (f *fingerprint) add(e made, name string, content bool) {
	if !content {
		e.sum = 0
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %q %t %d %q %d", e.kind, name, e.executable, e.size, e.target, e.sum))
	for i := range f {
		f[i] ^= sum[i]
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// examine makes the fingerprints of what is in dir. Without every it reads no
// file, and the second says nothing.
func examine(ctx context.Context, dir string, every bool) (shape, content fingerprint, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		e, err := look(path, d, every)
		if err != nil {
			return err
		}
		shape.add(e, name, false)
		content.add(e, name, true)
		return nil
	})
	return shape, content, err
}

// look returns what the unpacker knew of an entry when it made it.
func look(path string, d fs.DirEntry, every bool) (made, error) {
	switch d.Type() {
	case fs.ModeDir:
		return made{kind: folder}, nil
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		return made{kind: link, target: target}, err
	case 0:
		info, err := d.Info()
		if err != nil {
			return made{}, err
		}
		e := made{kind: file, executable: info.Mode()&0o111 != 0, size: info.Size()}
		if every {
			e.sum, err = checksum(path)
		}
		return e, err
	default:
		return made{}, fmt.Errorf("%s is a %v, which no bundle holds", path, d.Type())
	}
}

func checksum(path string) (uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sum := crc32.New(castagnoli)
	_, err = io.Copy(sum, f)
	return sum.Sum32(), err
}
