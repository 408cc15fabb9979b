package bundle

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sanfran.dev/internal/failpoint"
)

// errGivenUp: nobody waited any more.
var errGivenUp = errors.New("bundle: nobody waits for it any more")

// begin starts the work that makes an entry usable. kept says that it stands
// under its name, and is to be checked only. The caller holds mu.
func (s *Store) begin(e *entry, kept bool) {
	ctx, cancel := context.WithCancelCause(s.ctx)
	e.work = &work{done: make(chan struct{}), cancel: func() { cancel(errGivenUp) }}
	s.running.Go(func() {
		defer cancel(nil)
		err := s.bring(ctx, e, kept)
		if err != nil {
			err = fmt.Errorf("bundle: %s: %w", e.digest(), err)
		}
		s.finish(e, err)
	})
}

// finish ends an entry's work. One that failed is forgotten: nothing of it is on
// the disk.
func (s *Store) finish(e *entry, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := e.work
	e.work, w.err = nil, err
	if err != nil {
		delete(s.entries, e.name)
		s.used -= e.bytes
		e.bytes = 0
	}
	close(w.done)
}

// bring checks a kept bundle, and fetches one that is not there or is damaged.
func (s *Store) bring(ctx context.Context, e *entry, kept bool) error {
	if kept {
		err := s.check(e)
		if err == nil || s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		s.opts.Log.Warn("a kept bundle is not as it was unpacked, and is fetched again", "digest", e.digest(), "err", err)
		if err := s.discard(e); err != nil {
			return fmt.Errorf("remove the damaged one: %w", err)
		}
	}
	release, err := s.turn(ctx)
	if err != nil {
		return err
	}
	defer release()
	begun := time.Now()
	err = s.fetch(ctx, e)
	if err != nil && ctx.Err() != nil {
		// Whatever failed did so because of that.
		return context.Cause(ctx)
	}
	s.opts.Fetched(time.Since(begun), err)
	return err
}

// turn waits until the disk may be kept busy by one more.
func (s *Store) turn(ctx context.Context) (release func(), err error) {
	select {
	case s.busy <- struct{}{}:
		return func() { <-s.busy }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// check compares a kept bundle with its manifest: names, modes and sizes if it
// was written since the machine was booted, as files do not lose their content
// while it runs; else every byte. It is never given up: it waits for the disk
// alone.
func (s *Store) check(e *entry) error {
	dir := s.path(e.name)
	m, err := readManifest(dir)
	if err != nil {
		return err
	}
	if m.Boot == s.boot {
		return m.compare(s.ctx, dir, false)
	}
	release, err := s.turn(s.ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := m.compare(s.ctx, dir, true); err != nil {
		return err
	}
	m.Boot = s.boot
	s.step("check: renew the manifest")
	if err := m.write(dir); err != nil {
		// The next check compares every byte again.
		s.opts.Log.Warn("a bundle's manifest is not renewed", "digest", e.digest(), "err", err)
	}
	return nil
}

// discard removes the folder of an entry that is being worked on.
func (s *Store) discard(e *entry) error {
	s.mu.Lock()
	away, err := s.takeAway(e)
	s.mu.Unlock()
	if err == nil {
		err = os.RemoveAll(away)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= e.bytes
	e.bytes = 0
	return err
}

// fetch brings one bundle to its final folder, or leaves nothing behind.
func (s *Store) fetch(ctx context.Context, e *entry) (err error) {
	stream, err := s.fetcher.Fetch(ctx, e.digest())
	if err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	defer stream.Close()

	s.step("fetch: make a folder")
	partial, err := s.scratch("")
	if err != nil {
		return fmt.Errorf("make a folder to unpack in: %w", err)
	}
	defer func() {
		// Nothing is there any more after the rename.
		if removeErr := os.RemoveAll(partial); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove the folder unpacked in: %w", removeErr))
		}
	}()
	content := filepath.Join(partial, "content")
	if err := os.Mkdir(content, 0o755); err != nil {
		return fmt.Errorf("make a folder to unpack in: %w", err)
	}
	u := &unpacker{limits: s.opts.Limits, claim: func(n int64) error { return s.claim(e, n) }}
	if err := u.claim(3 * blockSize); err != nil { // both folders and the manifest
		return err
	}
	s.step("fetch: unpack")
	if err := failpoint.After("bundle: unpacked", u.unpackVerified(ctx, stream, content, e.digest())); err != nil {
		return err
	}
	// Containers read as somebody else, whatever the umask.
	if err := os.Chmod(content, 0o755); err != nil {
		return fmt.Errorf("open the bundle to readers: %w", err)
	}
	s.step("fetch: write the manifest")
	m := manifest{Format: manifestFormat, Boot: s.boot, Bytes: s.bytesOf(e), Shape: u.shape, Content: u.content}
	if err := m.write(partial); err != nil {
		return err
	}
	s.step("fetch: put it in place")
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Rename(partial, s.path(e.name)); err != nil {
		return fmt.Errorf("put the bundle in place: %w", err)
	}
	failpoint.Here("bundle: in place")
	return nil
}

func (s *Store) bytesOf(e *entry) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.bytes
}
