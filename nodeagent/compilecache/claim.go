package compilecache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/internal/failpoint"
)

// scratchName is the folder, in one of its own, that a container writes to.
const scratchName = "scratch"

// Claim is the right to write the cache of a key. Its owner ends it with Keep
// or GiveUp. Its methods are called by one goroutine at a time.
type Claim struct {
	store   *Store
	key     string
	partial string
	once    sync.Once
}

// Claim returns the right to write the cache of a key, or nil if somebody else
// has it or nothing is to be written. It does no I/O.
func (s *Store) Claim(key string) *Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[key] != nil || s.claimed[key] || s.leaving[key] {
		return nil
	}
	s.claimed[key] = true
	return &Claim{store: s, key: key}
}

// Scratch makes an empty folder of a filesystem of its own, in memory, that
// takes at most so many bytes. Who writes there pays for the memory. It needs
// root.
func (c *Claim) Scratch(bytes int64) (string, error) {
	dir, err := c.folder(scratchName)
	if err != nil {
		return "", err
	}
	// An inode of a tmpfs costs half a kilobyte that its size does not count.
	options := fmt.Sprintf("mode=755,size=%d,nr_inodes=%d", bytes, 2*c.store.limits.Files)
	if err := failpoint.After("compile cache: scratch mounted", unix.Mount("compile-cache", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options)); err != nil {
		return "", fmt.Errorf("compile cache: mount a tmpfs on %s: %w", dir, err)
	}
	// Private, so that no container's mount shows anywhere else on the host.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return "", errors.Join(fmt.Errorf("compile cache: make %s private: %w", dir, err), detach(dir))
	}
	return dir, nil
}

// folder makes a folder in a fresh one that goes with the claim.
func (c *Claim) folder(name string) (string, error) {
	if c.partial == "" {
		partial, err := os.MkdirTemp(c.store.path("partial"), "new-")
		if err != nil {
			return "", fmt.Errorf("compile cache: %w", err)
		}
		c.partial = partial
	}
	dir := filepath.Join(c.partial, name)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.Chmod(dir, 0o755)); err != nil {
		return "", fmt.Errorf("compile cache: %w", err)
	}
	return dir, nil
}

// Result says what a container has written.
type Result struct {
	Files int
	Bytes int64
	// Useful: it was kept, and is worth a mount. Otherwise it was found to be
	// too little and its key is remembered as one without a cache.
	Useful bool
}

// Keep takes what is in the scratch folder into the store and ends the claim.
// The container must not see the folder any more; what it still has open there
// may change while it is read, which V8 finds out. After an error that wraps
// ErrRefused the key has no cache for good; after another the next claim may
// try again.
func (c *Claim) Keep() (Result, error) {
	defer c.GiveUp()
	if c.partial == "" {
		return Result{}, errors.New("compile cache: nothing was written: the claim has no scratch folder")
	}
	kept, err := c.folder("kept")
	if err != nil {
		return Result{}, err
	}
	result, refused := collect(filepath.Join(c.partial, scratchName), kept, c.store.limits)
	if refused != nil && !errors.Is(refused, ErrRefused) {
		return result, fmt.Errorf("compile cache: %w", refused)
	}
	if refused == nil && result.Files == 0 {
		return result, errors.New("compile cache: the container has written nothing")
	}
	result.Useful = refused == nil && result.Bytes >= c.store.limits.Least
	if !result.Useful {
		if err := os.RemoveAll(kept); err != nil {
			return result, fmt.Errorf("compile cache: %w", err)
		}
		if kept, err = c.folder("none"); err != nil {
			return result, err
		}
	}
	if err := c.store.add(c.key, kept, result); err != nil {
		return result, fmt.Errorf("compile cache: %w", err)
	}
	if refused != nil {
		return result, fmt.Errorf("compile cache: %w", refused)
	}
	return result, nil
}

// add puts a folder under its key, in one step. The key is claimed by the caller.
func (s *Store) add(key, dir string, result Result) error {
	var bytes int64
	if result.Useful {
		bytes = result.Bytes
	}
	s.mu.Lock()
	stale := s.makeRoom(1, bytes)
	if !s.hasRoom(1, bytes) {
		err := fmt.Errorf("no room for %d bytes: %d caches of %d bytes are in use; allow more, or run fewer functions here", bytes, len(s.entries), s.bytes)
		s.mu.Unlock()
		return errors.Join(err, s.drop(stale))
	}
	// Nobody else takes the room meanwhile, and nobody uses what is not there yet.
	e := &entry{refs: 1}
	s.entries[key] = e
	s.bytes += bytes
	s.mu.Unlock()
	err := s.drop(stale)
	renameErr := os.Rename(dir, s.path("functions", key))
	failpoint.Here("compile cache: in place")
	s.mu.Lock()
	defer s.mu.Unlock()
	if renameErr != nil {
		delete(s.entries, key)
		s.bytes -= bytes
		return errors.Join(err, renameErr)
	}
	*e = entry{bytes: bytes, lastUsed: time.Now()}
	return err
}

// GiveUp ends the claim, with all that was written. It may be called more than
// once.
func (c *Claim) GiveUp() {
	c.once.Do(func() {
		c.discard()
		c.store.mu.Lock()
		defer c.store.mu.Unlock()
		delete(c.store.claimed, c.key)
	})
}

// discard removes the claim's folders. What cannot be removed now is when the
// store is opened next.
func (c *Claim) discard() {
	if c.partial == "" {
		return
	}
	if err := detach(filepath.Join(c.partial, scratchName)); err != nil {
		return // deleting would go through the mount
	}
	if err := os.RemoveAll(c.partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return
	}
	c.partial = ""
}
