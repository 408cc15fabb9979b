package bundle

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// blockSize is what every file and folder takes a whole number of.
const blockSize = 4096

// blocks is what a file of so many bytes takes.
func blocks(bytes int64) int64 {
	return max(1, (bytes+blockSize-1)/blockSize) * blockSize
}

// claim takes so many bytes more of the budget for an entry. If there is no room
// it drops bundles that nobody uses, the one that was used the longest ago
// first, until there is. It waits for no one: two bundles of which each needs
// what the other has taken already would wait for ever.
func (s *Store) claim(e *entry, n int64) error {
	if s.take(e, n) {
		return nil
	}
	if total := s.bytesOf(e) + n; total > s.opts.Budget {
		return refuse("it takes more than the %d bytes that this node has for all bundles (the agent's --bundle-bytes; agent.bundleMiB of the chart)", s.opts.Budget)
	}
	// One at a time: others may have made enough room meanwhile.
	s.evicting.Lock()
	defer s.evicting.Unlock()
	for !s.take(e, n) {
		dropped, err := s.evict()
		if err != nil {
			return fmt.Errorf("make room: %w", err)
		}
		if !dropped {
			return fmt.Errorf("%w: bundles that pods on this node use take %d of the %d bytes that it has for all (the agent's --bundle-bytes; agent.bundleMiB of the chart); it is tried again",
				ErrNoRoom, s.Stats().InUse-s.bytesOf(e), s.opts.Budget)
		}
	}
	return nil
}

// take claims if there is room.
func (s *Store) take(e *entry, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.used+n > s.opts.Budget {
		return false
	}
	s.used += n
	e.bytes += n
	return true
}

// evict drops the bundle that was used the longest ago, of those that nobody
// uses. It reports false if there is none. The caller holds evicting.
func (s *Store) evict() (bool, error) {
	s.mu.Lock()
	var oldest *entry
	for _, e := range s.entries {
		if e.refs == 0 && e.work == nil && (oldest == nil || e.lastUsed.Before(oldest.lastUsed)) {
			oldest = e
		}
	}
	if oldest == nil {
		s.mu.Unlock()
		return false, nil
	}
	away, err := s.takeAway(oldest)
	if err == nil {
		delete(s.entries, oldest.name)
		s.evicted++
	}
	s.mu.Unlock()
	if err != nil {
		return false, err
	}
	s.step("evict: delete")
	err = os.RemoveAll(away)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= oldest.bytes
	return true, err
}

// takeAway takes a bundle's folder from its name, in one step, and returns where
// it is to be deleted. That it is not there any more is no error. The caller
// holds mu.
func (s *Store) takeAway(e *entry) (string, error) {
	away, err := s.scratch("old-")
	if err != nil {
		return "", err
	}
	s.step("take away")
	if err := os.Rename(s.path(e.name), filepath.Join(away, "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", errors.Join(err, os.Remove(away))
	}
	return away, nil
}

// scratch makes a folder for what is being unpacked or deleted, also when
// somebody has emptied the store's folder.
func (s *Store) scratch(prefix string) (string, error) {
	for _, name := range []string{"partial", "sha256"} {
		if err := os.MkdirAll(filepath.Join(s.dir, name), 0o700); err != nil {
			return "", err
		}
	}
	return os.MkdirTemp(filepath.Join(s.dir, "partial"), prefix)
}
