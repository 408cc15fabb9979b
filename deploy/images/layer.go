package main

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// layer is a compressed layer in the cache. It implements v1.Layer.
type layer struct {
	file string
	meta layerMeta
	made string // what it holds, for the image's history
}

// layerMeta is what is kept beside the file, so that an image is put together
// without reading its layers.
type layerMeta struct {
	Digest v1.Hash `json:"digest"` // of the compressed file
	DiffID v1.Hash `json:"diffID"` // of the tar in it
	Size   int64   `json:"size"`   // bytes, compressed
}

func (l *layer) Digest() (v1.Hash, error)             { return l.meta.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.meta.DiffID, nil }
func (l *layer) Size() (int64, error)                 { return l.meta.Size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return openGzip(l.file) }

// cachedLayer returns the layer of the tree that build makes. key names the
// input of build; build is not called if the cache has that layer. What the
// layer holds is told by made.
func (b *builder) cachedLayer(key, made string, build func() (*tree, error)) (*layer, error) {
	l := &layer{file: filepath.Join(b.cache, "layers", key+".tar.gz"), made: made}
	metaFile := filepath.Join(b.cache, "layers", key+".json")
	// The metadata is written last: where it is, the layer is complete.
	if data, err := os.ReadFile(metaFile); err == nil && json.Unmarshal(data, &l.meta) == nil {
		if info, err := os.Stat(l.file); err == nil && info.Size() == l.meta.Size {
			return l, nil
		}
	}
	t, err := build()
	if err != nil {
		return nil, err
	}
	b.step("packing layer: %s", made)
	if err := writeAtomic(l.file, func(w io.Writer) (err error) {
		l.meta, err = packLayer(w, t)
		return err
	}); err != nil {
		return nil, fmt.Errorf("layer %s: %w", made, err)
	}
	data, err := json.Marshal(l.meta)
	if err != nil {
		return nil, err
	}
	return l, writeFileAtomic(metaFile, data)
}

// treeLayer is cachedLayer for a tree that is at hand.
func (b *builder) treeLayer(made string, t *tree) (*layer, error) {
	return b.cachedLayer("tree-"+t.digest(), made, func() (*tree, error) { return t, nil })
}

func packLayer(w io.Writer, t *tree) (layerMeta, error) {
	compressed, plain := sha256.New(), sha256.New()
	counted := &countingWriter{w: io.MultiWriter(w, compressed)}
	zw := gzip.NewWriter(counted)
	if err := t.writeTar(io.MultiWriter(zw, plain)); err != nil {
		return layerMeta{}, err
	}
	if err := zw.Close(); err != nil {
		return layerMeta{}, err
	}
	return layerMeta{Digest: hashOf(compressed), DiffID: hashOf(plain), Size: counted.n}, nil
}

func hashOf(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// gzipFile closes both the stream and the file under it.
type gzipFile struct {
	*gzip.Reader
	file *os.File
}

func (g gzipFile) Close() error {
	g.Reader.Close()
	return g.file.Close()
}

func openGzip(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	zr, err := gzip.NewReader(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return gzipFile{zr, f}, nil
}
