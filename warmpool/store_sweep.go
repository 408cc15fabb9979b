package warmpool

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Sweep removes the bundles that referenced denies and that are older than
// minAge, and returns how many. minAge covers the time between the storing of
// a bundle and the assignment that names it.
func (s *Store) Sweep(referenced func(digest string) bool, minAge time.Duration) (int, error) {
	type victim struct {
		digest string
		upload uint64
	}
	var victims []victim
	before := time.Now().Add(-minAge)
	err := s.eachBundle(func(digest string, record bundleRecord) {
		if record.Since.Before(before) && !referenced(digest) {
			victims = append(victims, victim{digest, record.Upload})
		}
	})
	if err != nil {
		return 0, err
	}
	swept := 0
	for _, v := range victims {
		// The commit record goes first: from then on the bundle does not exist,
		// and chunks a crash leaves are removed at the next opening.
		deleted := false
		err := s.db.Update(func(tx *bolt.Tx) error {
			var record bundleRecord
			bundles := tx.Bucket(bucketBundles)
			if err := json.Unmarshal(bundles.Get([]byte(v.digest)), &record); err != nil {
				return fmt.Errorf("read its commit record: %w", err)
			}
			if !record.Since.Before(before) {
				return nil // stored again meanwhile
			}
			deleted = true
			return bundles.Delete([]byte(v.digest))
		})
		if err == nil && deleted {
			err = s.removeUpload(v.upload)
		}
		if err != nil {
			return swept, fmt.Errorf("remove bundle %s: %w", v.digest, err)
		}
		if deleted {
			swept++
		}
	}
	return swept, nil
}

func (s *Store) eachBundle(do func(digest string, record bundleRecord)) error {
	return s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketBundles).ForEach(func(digest, value []byte) error {
			var record bundleRecord
			if err := json.Unmarshal(value, &record); err != nil {
				return fmt.Errorf("read the commit record of bundle %s: %w", digest, err)
			}
			do(string(digest), record)
			return nil
		})
	})
}

// removeUncommitted removes the chunks of uploads that no commit record names.
func (s *Store) removeUncommitted() error {
	committed := make(map[uint64]bool)
	if err := s.eachBundle(func(_ string, record bundleRecord) { committed[record.Upload] = true }); err != nil {
		return err
	}
	var orphans []uint64
	err := s.db.View(func(tx *bolt.Tx) error {
		c := tx.Bucket(bucketChunks).Cursor()
		for k, _ := c.First(); k != nil; {
			if len(k) != 16 {
				return fmt.Errorf("the chunk key %x has %d bytes, not 16", k, len(k))
			}
			upload := binary.BigEndian.Uint64(k)
			if !committed[upload] {
				orphans = append(orphans, upload)
			}
			k, _ = c.Seek(chunkKey(upload+1, 0))
		}
		return nil
	})
	for _, upload := range orphans {
		err = errors.Join(err, s.removeUpload(upload))
	}
	return err
}

// removeUpload removes an upload's chunks, a batch in each transaction.
func (s *Store) removeUpload(upload uint64) error {
	prefix := binary.BigEndian.AppendUint64(nil, upload)
	for {
		removed := 0
		err := s.db.Update(func(tx *bolt.Tx) error {
			chunks := tx.Bucket(bucketChunks)
			var keys [][]byte
			c := chunks.Cursor()
			for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix) && len(keys) < sweepBatch; k, _ = c.Next() {
				keys = append(keys, bytes.Clone(k))
			}
			for _, k := range keys {
				if err := chunks.Delete(k); err != nil {
					return err
				}
			}
			removed = len(keys)
			return nil
		})
		if err != nil {
			return fmt.Errorf("remove the chunks of upload %d: %w", upload, err)
		}
		if removed < sweepBatch {
			return nil
		}
	}
}
