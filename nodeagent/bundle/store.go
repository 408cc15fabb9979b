package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// ErrClosed is returned by Get once the store is closed.
var ErrClosed = errors.New("bundle: the store is closed")

// Fetcher brings archives from wherever they are kept.
type Fetcher interface {
	// Fetch opens the archive of the digest. The stream is not trusted: the
	// store verifies it. The context covers reading the stream too.
	Fetch(ctx context.Context, digest string) (io.ReadCloser, error)
}

// Store is a folder of unpacked bundles. It is safe for concurrent use.
//
// Layout: <dir>/sha256/<hex> is a whole bundle, <dir>/partial/<random> one
// that is being unpacked, <dir>/boot the id of the boot that wrote them.
type Store struct {
	dir     string
	fetcher Fetcher
	limits  Limits

	stop    context.CancelFunc
	ctx     context.Context
	running sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	entries map[string]*entry
}

// entry is one digest that somebody uses or waits for.
type entry struct {
	refs   int
	cancel context.CancelFunc
	// done is closed when the folder stands or err says why it does not.
	done chan struct{}
	err  error
}

// Bundle is a use of an unpacked bundle. The folder stays until Release.
type Bundle struct {
	dir     string
	release func()
}

// Dir is the folder of the bundle's files: readable by everybody, to be
// changed by nobody.
func (b *Bundle) Dir() string { return b.dir }

// Release ends the use. It may be called more than once.
func (b *Bundle) Release() { b.release() }

// Open makes a store in dir, which it owns alone. What an earlier process left
// half unpacked is removed; whole bundles are kept, unless the machine has
// booted since: nothing here is synced to disk, so after a power loss a folder
// may have its name but not its content.
func Open(dir string, fetcher Fetcher, limits Limits) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("bundle: make the store's folder: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("bundle: read the boot id: %w", err)
	}
	stale := []string{"partial"}
	if had, err := os.ReadFile(filepath.Join(dir, "boot")); err != nil || string(had) != string(boot) {
		stale = append(stale, "sha256")
	}
	for _, name := range stale {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("bundle: remove leftovers: %w", err)
		}
	}
	for _, name := range []string{"partial", "sha256"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return nil, fmt.Errorf("bundle: make the store's folder: %w", err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), boot, 0o644); err != nil {
		return nil, fmt.Errorf("bundle: write the boot id: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Store{
		dir: dir, fetcher: fetcher, limits: limits.withDefaults(),
		ctx: ctx, stop: stop, entries: map[string]*entry{},
	}, nil
}

// Close ends the fetches under way and waits for them. Bundles in use keep
// their folders.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.stop()
	s.running.Wait()
}

// Get returns the bundle of a digest ("sha256:" and 64 lower-case hex digits)
// and fetches it if the node does not have it yet. Callers that ask for the
// same digest meanwhile share one fetch; it ends early when the last of them
// gives up. A failure is not remembered: the next Get tries again.
func (s *Store) Get(ctx context.Context, digest string) (*Bundle, error) {
	hex, err := parseDigest(digest)
	if err != nil {
		return nil, err
	}
	target := filepath.Join(s.dir, "sha256", hex)

	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, ErrClosed
	}
	e := s.entries[digest]
	if e == nil {
		e = s.begin(digest, target)
	}
	e.refs++
	s.mu.Unlock()

	select {
	case <-e.done:
	case <-ctx.Done():
		s.release(digest, e)
		return nil, fmt.Errorf("bundle: wait for %s: %w", digest, context.Cause(ctx))
	}
	if e.err != nil {
		s.release(digest, e)
		return nil, e.err
	}
	return &Bundle{dir: target, release: sync.OnceFunc(func() { s.release(digest, e) })}, nil
}

// begin makes the entry of a digest and, if its folder is missing, starts the
// fetch. The caller holds the lock.
func (s *Store) begin(digest, target string) *entry {
	e := &entry{done: make(chan struct{}), cancel: func() {}}
	s.entries[digest] = e
	if _, err := os.Lstat(target); err == nil {
		close(e.done)
		return e
	}
	ctx, cancel := context.WithCancel(s.ctx)
	e.cancel = cancel
	s.running.Go(func() {
		defer cancel()
		err := s.fetch(ctx, digest, target)
		if err != nil {
			e.err = fmt.Errorf("bundle: %s: %w", digest, err)
			s.forget(digest, e)
		}
		close(e.done)
	})
	return e
}

// forget makes the next Get of the digest begin anew.
func (s *Store) forget(digest string, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.entries[digest] == e {
		delete(s.entries, digest)
	}
}

// release drops one reference. With the last one an unfinished fetch is ended.
func (s *Store) release(digest string, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.refs--
	if e.refs > 0 {
		return
	}
	e.cancel()
	if s.entries[digest] == e {
		delete(s.entries, digest)
	}
}

// fetch brings one bundle to its final folder, or leaves nothing behind.
func (s *Store) fetch(ctx context.Context, digest, target string) (err error) {
	stream, err := s.fetcher.Fetch(ctx, digest)
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer stream.Close()

	partial, err := os.MkdirTemp(filepath.Join(s.dir, "partial"), "")
	if err != nil {
		return fmt.Errorf("make a folder to unpack in: %w", err)
	}
	defer func() {
		if removeErr := os.RemoveAll(partial); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove the folder unpacked in: %w", removeErr))
		}
	}()
	content := filepath.Join(partial, "content")
	if err := os.Mkdir(content, 0o755); err != nil {
		return fmt.Errorf("make a folder to unpack in: %w", err)
	}
	if err := unpackVerified(ctx, stream, content, digest, s.limits); err != nil {
		return err
	}
	err = os.Rename(content, target)
	if err != nil {
		// A fetch that was given up may have finished all the same, and its
		// follower with it: the content is the same, so either one will do.
		if _, statErr := os.Lstat(target); statErr == nil {
			return nil
		}
		return fmt.Errorf("put the bundle in place: %w", err)
	}
	return nil
}

// parseDigest returns the hex part of a well-formed digest. It becomes a file
// name, so nothing else passes.
func parseDigest(digest string) (string, error) {
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", fmt.Errorf("bundle: %q is no digest: want \"sha256:\" and 64 lower-case hex digits", digest)
	}
	return hex, nil
}
