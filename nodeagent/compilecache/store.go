package compilecache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound what is kept. Zero fields have defaults.
type Limits struct {
	// Files and Bytes bound one cache (default 8192 and 64 MiB), FileBytes one
	// of its files (default 16 MiB).
	Files            int
	Bytes, FileBytes int64
	// Least is how many bytes a cache must have to be worth a mount (default
	// 32 KiB): a function of one file loads faster without.
	Least int64
	// Budget and Caches bound all caches together (default 1 GiB and 4096).
	Budget int64
	Caches int
}

func (l Limits) withDefaults() Limits {
	set(&l.Files, 8192)
	set(&l.Bytes, 64<<20)
	set(&l.FileBytes, 16<<20)
	set(&l.Least, 32<<10)
	set(&l.Budget, 1<<30)
	set(&l.Caches, 4096)
	return l
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Store is a folder of caches. It is safe for concurrent use.
//
// Layout: <dir>/functions/<key> is a whole cache, <dir>/partial/<random> what is
// being written or deleted, <dir>/empty an empty folder, <dir>/boot the id of
// the boot that wrote them.
type Store struct {
	dir    string
	limits Limits

	mu      sync.Mutex
	entries map[string]*entry
	claimed map[string]bool
	// leaving are keys whose folders are being removed.
	leaving map[string]bool
	bytes   int64
	evicted int64
}

// entry is a cache on disk.
type entry struct {
	bytes    int64
	refs     int
	lastUsed time.Time
}

// Key makes a name of everything that two containers must have in common to
// share a cache. The order of parts counts.
func Key(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d %s\n", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Open makes a store in dir, which it owns alone. It removes what an earlier
// process left half done, whatever it does not know, and everything that was
// written before the machine booted.
func Open(dir string, limits Limits) (*Store, error) {
	s := &Store{dir: dir, limits: limits.withDefaults(), entries: map[string]*entry{}, claimed: map[string]bool{}, leaving: map[string]bool{}}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("compile cache: %w", err)
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("compile cache: read what is kept: %w", err)
	}
	s.mu.Lock()
	stale := s.makeRoom(0, 0)
	s.mu.Unlock()
	return s, s.drop(stale)
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// prepare makes the folders of a store that may have had an earlier life.
func (s *Store) prepare() error {
	// Containers are given mounts; nobody but the agent walks through here.
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	known := map[string]bool{"boot": true, "functions": true}
	if had, err := os.ReadFile(s.path("boot")); err != nil || string(had) != string(boot) {
		known = nil
	}
	if err := sweepScratch(s.path("partial")); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !known[e.Name()] {
			if err := os.RemoveAll(s.path(e.Name())); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"partial", "functions", "empty"} {
		if err := os.MkdirAll(s.path(name), 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(s.path("boot"), boot, 0o600)
}

// load finds the caches of an earlier process.
func (s *Store) load() error {
	entries, err := os.ReadDir(s.path("functions"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := s.path("functions", e.Name())
		size, err := sizeOf(dir)
		if err != nil || len(e.Name()) != 2*sha256.Size || strings.Trim(e.Name(), "0123456789abcdef") != "" {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s.entries[e.Name()] = &entry{bytes: size, lastUsed: info.ModTime()}
		s.bytes += size
	}
	return nil
}

// sizeOf sums up a folder of regular files; it is an error if it is not one.
func sizeOf(dir string) (int64, error) {
	files, err := os.ReadDir(dir)
	var sum int64
	for _, f := range files {
		if !f.Type().IsRegular() {
			return 0, fmt.Errorf("%s/%s is no regular file", dir, f.Name())
		}
		info, err := f.Info()
		if err != nil {
			return 0, err
		}
		sum += info.Size()
	}
	return sum, err
}

// Cache is a use of a cache. The folder stays until Release.
type Cache struct {
	store *Store
	key   string
	once  sync.Once
}

// Use returns the cache of a key, or nil if there is none that is of use. It
// does no I/O.
func (s *Store) Use(key string) *Cache {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[key]
	if e == nil {
		return nil
	}
	e.lastUsed = time.Now()
	if e.bytes == 0 {
		return nil
	}
	e.refs++
	return &Cache{store: s, key: key}
}

// Dir is the folder of the cache's files, to be changed by nobody.
func (c *Cache) Dir() string { return c.store.path("functions", c.key) }

// Release ends the use. It may be called more than once.
func (c *Cache) Release() {
	c.once.Do(func() {
		now := time.Now()
		c.store.mu.Lock()
		e := c.store.entries[c.key]
		e.refs--
		e.lastUsed = now
		c.store.mu.Unlock()
		// Only so that the next process knows the order; without it, it has
		// another one.
		_ = os.Chtimes(c.Dir(), now, now)
	})
}

// Empty is a folder that is and stays empty: what is mounted where a cache is
// still to be written.
func (s *Store) Empty() string { return s.path("empty") }

// makeRoom takes the caches that have not been used for the longest out of the
// store until there is room for more of so many bytes. It returns their keys,
// which nobody can claim until the caller has dropped them, without the lock: a
// request that waits for a container asks for a cache, and waits for no disk. The
// caller holds mu.
func (s *Store) makeRoom(caches int, bytes int64) (stale []string) {
	if s.hasRoom(caches, bytes) {
		return nil
	}
	type candidate struct {
		key string
		*entry
	}
	var idle []candidate
	for key, e := range s.entries {
		if e.refs == 0 {
			idle = append(idle, candidate{key, e})
		}
	}
	slices.SortFunc(idle, func(a, b candidate) int { return a.lastUsed.Compare(b.lastUsed) })
	for _, c := range idle {
		if s.hasRoom(caches, bytes) {
			break
		}
		stale = append(stale, c.key)
		s.bytes -= c.bytes
		s.evicted++
		s.leaving[c.key] = true
		delete(s.entries, c.key)
	}
	return stale
}

// hasRoom reports whether there is room for more. The caller holds mu.
func (s *Store) hasRoom(caches int, bytes int64) bool {
	return s.bytes+bytes <= s.limits.Budget && len(s.entries)+caches <= s.limits.Caches
}

// drop removes the folders of keys that makeRoom has returned. One that cannot be
// removed keeps its key out of use until the store is opened next.
func (s *Store) drop(keys []string) error {
	var errs []error
	for _, key := range keys {
		if err := s.remove(key); err != nil {
			errs = append(errs, err)
			continue
		}
		s.mu.Lock()
		delete(s.leaving, key)
		s.mu.Unlock()
	}
	return errors.Join(errs...)
}

// remove removes a cache's folder. It leaves by a rename: the next process finds
// no half of it.
func (s *Store) remove(key string) error {
	away, err := os.MkdirTemp(s.path("partial"), "old-")
	if err != nil {
		return err
	}
	err = os.Rename(s.path("functions", key), filepath.Join(away, "old"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(away))
}

// Stats is the store in numbers.
type Stats struct {
	// Caches counts those that are of use, Bytes is their size.
	Caches int
	Bytes  int64
	// Evicted counts, since the store was opened, those dropped for others.
	Evicted int64
}

// Stats returns the numbers of now.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{Bytes: s.bytes, Evicted: s.evicted}
	for _, e := range s.entries {
		if e.bytes > 0 {
			stats.Caches++
		}
	}
	return stats
}

// sweepScratch takes away what an earlier process had mounted below dir.
func sweepScratch(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := detach(filepath.Join(dir, e.Name(), scratchName)); err != nil {
			return err
		}
	}
	return nil
}

// detach unmounts everything that is stacked on point; it is no error if
// nothing is.
func detach(point string) error {
	for {
		switch err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT:
			return nil
		case unix.EPERM: // not root: then nothing of ours can be mounted
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
}
