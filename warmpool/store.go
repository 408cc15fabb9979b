package warmpool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The schema, version 1. All integers are big-endian.
//
//	meta                            what this file is
//	  "version"            → uint64
//	bundles                         one commit record for each whole bundle
//	  digest ("sha256:…")  → JSON bundleRecord
//	chunks                          the bytes, in order
//	  upload, index (2 × uint64) → at most chunkBytes bytes
//	ledger                          where pods were; speeds recovery, no more
//	  pod UID              → JSON ledgerRecord
//
// A bundle is written as chunks under an upload number of its own, each in its
// own transaction, and exists from the transaction that writes its commit
// record. Chunks whose upload no commit record names are what an interrupted
// upload left, and are removed when the file is opened.
const (
	schemaVersion = 1
	chunkBytes    = 1 << 20
	// sweepBatch bounds how much one transaction removes.
	sweepBatch = 64
)

var (
	bucketMeta    = []byte("meta")
	bucketBundles = []byte("bundles")
	bucketChunks  = []byte("chunks")
	bucketLedger  = []byte("ledger")
	keyVersion    = []byte("version")
)

type bundleRecord struct {
	Upload uint64    `json:"upload"`
	Chunks uint64    `json:"chunks"`
	Bytes  int64     `json:"bytes"`
	Since  time.Time `json:"since"` // when it was stored last
}

// ErrNoBundle says that the store holds no bundle of a digest.
var ErrNoBundle = errors.New("no such bundle")

// ErrDigest says that a digest is malformed or does not fit the content.
var ErrDigest = errors.New("wrong digest")

// Store keeps bundles and the ledger in one bbolt file. A bundle that Put has
// acknowledged survives the loss of power at any instruction. It is safe for
// concurrent use.
type Store struct {
	db *bolt.DB
	// maxBundleBytes bounds a bundle.
	maxBundleBytes int64
}

// OpenStore opens or makes the file at path and removes what interrupted
// uploads left. Only one process can have it open; another waits 5 s and
// fails. maxBundleBytes bounds what Put takes.
func OpenStore(path string, maxBundleBytes int64) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make the store's folder: %w", err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("open the store %s (does another control plane hold it?): %w", path, err)
	}
	s := &Store{db: db, maxBundleBytes: maxBundleBytes}
	if err := errors.Join(s.upgrade(), s.removeUncommitted()); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare the store %s: %w", path, err), db.Close())
	}
	return s, nil
}

// Close closes the file. Readers that are still open fail from then on.
func (s *Store) Close() error { return s.db.Close() }

// upgrade brings the file to schemaVersion, or refuses one from a later build.
func (s *Store) upgrade() error {
	return s.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketBundles, bucketChunks, bucketLedger} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return fmt.Errorf("make the bucket %s: %w", name, err)
			}
		}
		meta := tx.Bucket(bucketMeta)
		version := uint64(schemaVersion)
		if v := meta.Get(keyVersion); v != nil {
			if len(v) != 8 {
				return fmt.Errorf("its version is %x, not a number: the file is not SanFran's", v)
			}
			version = binary.BigEndian.Uint64(v)
		}
		// Upgrades go here, one step for each version, before the check.
		if version != schemaVersion {
			return fmt.Errorf("its version is %d, this build knows %d: use the build that wrote it, or move the file away", version, schemaVersion)
		}
		return meta.Put(keyVersion, binary.BigEndian.AppendUint64(nil, version))
	})
}

// Put stores the bundle that r streams, unless it is there already; then r is
// not read. It returns once the bundle is on disk. Content of another digest,
// or larger than the store takes, is refused with ErrDigest or an error that
// names the limit, and leaves nothing.
func (s *Store) Put(ctx context.Context, digest string, r io.Reader) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	if ok, err := s.renew(digest); err != nil || ok {
		return err
	}
	var upload uint64
	err := s.db.Update(func(tx *bolt.Tx) (err error) {
		upload, err = tx.Bucket(bucketChunks).NextSequence()
		return err
	})
	if err != nil {
		return fmt.Errorf("begin bundle %s: %w", digest, err)
	}
	record, err := s.putChunks(ctx, upload, digest, r)
	if err == nil {
		err = s.commit(digest, record)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("store bundle %s: %w", digest, err), s.removeUpload(upload))
	}
	return nil
}

func (s *Store) putChunks(ctx context.Context, upload uint64, digest string, r io.Reader) (bundleRecord, error) {
	record := bundleRecord{Upload: upload, Since: time.Now().UTC()}
	sum := sha256.New()
	buffer := make([]byte, chunkBytes)
	for {
		if err := ctx.Err(); err != nil {
			return record, context.Cause(ctx)
		}
		n, err := io.ReadFull(r, buffer)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return record, fmt.Errorf("read its content: %w", err)
		}
		if n == 0 {
			break
		}
		if record.Bytes += int64(n); record.Bytes > s.maxBundleBytes {
			return record, fmt.Errorf("it is larger than %d bytes", s.maxBundleBytes)
		}
		sum.Write(buffer[:n])
		key := chunkKey(upload, record.Chunks)
		if err := s.db.Update(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketChunks).Put(key, buffer[:n])
		}); err != nil {
			return record, fmt.Errorf("write chunk %d: %w", record.Chunks, err)
		}
		record.Chunks++
	}
	if got := digestOf(sum); got != digest {
		return record, fmt.Errorf("%w: the content is %s", ErrDigest, got)
	}
	return record, nil
}

// commit makes an upload a bundle. When another upload of the same content was
// faster, this one is removed in the same transaction.
func (s *Store) commit(digest string, record bundleRecord) error {
	value, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode its commit record: %w", err)
	}
	lost := false
	err = s.db.Update(func(tx *bolt.Tx) error {
		bundles := tx.Bucket(bucketBundles)
		if lost = bundles.Get([]byte(digest)) != nil; lost {
			return nil
		}
		return bundles.Put([]byte(digest), value)
	})
	if err != nil {
		return fmt.Errorf("write its commit record: %w", err)
	}
	if lost {
		return s.removeUpload(record.Upload)
	}
	return nil
}

// Has says whether the store holds a whole bundle of digest.
func (s *Store) Has(digest string) (bool, error) {
	_, err := s.record(digest)
	if errors.Is(err, ErrNoBundle) {
		return false, nil
	}
	return err == nil, err
}

// renew makes a bundle that is there as young as one that is stored now, so that
// no sweep takes it before the assignment that follows names it. It reports
// whether the bundle is there.
func (s *Store) renew(digest string) (bool, error) {
	record, err := s.record(digest)
	if errors.Is(err, ErrNoBundle) {
		return false, nil
	}
	if err != nil || time.Since(record.Since) < sweepMinAge/2 {
		return err == nil, err
	}
	record.Since = time.Now().UTC()
	value, err := json.Marshal(record)
	if err != nil {
		return false, fmt.Errorf("encode the commit record of bundle %s: %w", digest, err)
	}
	there := false
	err = s.db.Update(func(tx *bolt.Tx) error {
		bundles := tx.Bucket(bucketBundles)
		if there = bundles.Get([]byte(digest)) != nil; !there {
			return nil // swept meanwhile
		}
		return bundles.Put([]byte(digest), value)
	})
	if err != nil {
		return false, fmt.Errorf("renew bundle %s: %w", digest, err)
	}
	return there, nil
}

func (s *Store) record(digest string) (record bundleRecord, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		value := tx.Bucket(bucketBundles).Get([]byte(digest))
		if value == nil {
			return fmt.Errorf("%w: %s", ErrNoBundle, digest)
		}
		return json.Unmarshal(value, &record)
	})
	return record, err
}

// Open returns the bundle's content, to be closed by the caller, or
// ErrNoBundle. No transaction stays open between reads, so a slow reader costs
// nobody anything; a bundle removed meanwhile ends the reading with
// ErrNoBundle.
func (s *Store) Open(digest string) (io.ReadCloser, error) {
	record, err := s.record(digest)
	if err != nil {
		return nil, err
	}
	return &bundleReader{store: s, digest: digest, record: record}, nil
}

type bundleReader struct {
	store  *Store
	digest string
	record bundleRecord
	next   uint64
	rest   bytes.Reader
}

func (r *bundleReader) Read(p []byte) (int, error) {
	if r.rest.Len() == 0 {
		if r.next == r.record.Chunks {
			return 0, io.EOF
		}
		var chunk []byte
		err := r.store.db.View(func(tx *bolt.Tx) error {
			chunk = bytes.Clone(tx.Bucket(bucketChunks).Get(chunkKey(r.record.Upload, r.next)))
			return nil
		})
		if err != nil {
			return 0, fmt.Errorf("read chunk %d of bundle %s: %w", r.next, r.digest, err)
		}
		if chunk == nil {
			return 0, fmt.Errorf("%w: %s was removed while it was read", ErrNoBundle, r.digest)
		}
		r.next++
		r.rest.Reset(chunk)
	}
	return r.rest.Read(p)
}

func (r *bundleReader) Close() error { return nil }

func checkDigest(digest string) error {
	hexDigits, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(hexDigits); !ok || err != nil || len(raw) != sha256.Size || strings.ToLower(hexDigits) != hexDigits {
		return fmt.Errorf("%w: %q is not \"sha256:\" and 64 hex digits", ErrDigest, digest)
	}
	return nil
}

func digestOf(sum hash.Hash) string { return "sha256:" + hex.EncodeToString(sum.Sum(nil)) }

func chunkKey(upload, index uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, upload), index)
}
