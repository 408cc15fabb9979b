package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var (
	// ErrClosed is returned by Get once the store is closed.
	ErrClosed = errors.New("bundle: the store is closed")
	// ErrNoRoom marks a bundle for which there is no room as long as those that
	// are in use are. It may fit later.
	ErrNoRoom = errors.New("no room")
	// errDamaged marks a folder that is not what its bundle holds.
	errDamaged = errors.New("damaged")
)

// Fetcher brings archives from wherever they are kept.
type Fetcher interface {
	// Fetch opens the archive of the digest. The stream is not trusted: the
	// store verifies it. The context covers reading the stream too.
	Fetch(ctx context.Context, digest string) (io.ReadCloser, error)
}

// Options are what a store keeps to. Zero fields have defaults.
type Options struct {
	// Limits bound each bundle.
	Limits Limits
	// Budget bounds what all bundles take on the disk together, in bytes,
	// counted in whole blocks (default 4 GiB).
	Budget int64
	// Fetched is told of each fetch: how long it took with unpacking, and why it
	// failed. It may be called from several goroutines at once.
	Fetched func(took time.Duration, err error)
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// maxBusy is how many bundles are fetched, or read as a whole, at once. More would
// make each come later, and no pod ready sooner.
const maxBusy = 8

// Store is a folder of unpacked bundles. It is safe for concurrent use.
//
// Namespaces share no files, though they may have the same bundle: each could see
// when the other opens them (inotify), and by the time it takes whether the other has
// lately. So every bundle is fetched, kept and counted for each namespace.
//
// Layout: <dir>/sha256/<namespace>-<hex> is a whole bundle, its files in content and
// what they are in manifest.json; <dir>/partial/<random> is one that is being
// unpacked or deleted; <dir>/lock is held by the process that owns the store.
type Store struct {
	dir     string
	fetcher Fetcher
	opts    Options
	boot    string
	lock    *os.File
	// step is told of every step that changes the disk, before it is made, for
	// tests.
	step func(string)

	stop    context.CancelCauseFunc
	ctx     context.Context
	running sync.WaitGroup
	busy    chan struct{} // one element for each fetch, or check of every byte

	// evicting is held while room is made. It is taken before mu.
	evicting sync.Mutex

	// mu also covers the renames by which bundles come to and leave their names,
	// so that the names are those of entries without work. No request waits for
	// it.
	mu      sync.Mutex
	closed  bool
	entries map[string]*entry // by name
	used    int64             // what is taken of the budget
	evicted int64
}

// entry is a bundle that is on the disk, or on its way there.
type entry struct {
	// name is its folder's, of nameOf.
	name string
	// refs are its uses, and those who wait for its work.
	refs     int
	bytes    int64 // of used
	lastUsed time.Time
	// work is what makes it usable; nil: it stands under its name.
	work *work
}

func (e *entry) digest() string { return "sha256:" + e.name[len(e.name)-hexDigits:] }

// work is one check or fetch of a bundle. Everybody who asks meanwhile waits for
// it; it is cancelled when none of them does any more.
type work struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it is over
	err    error
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

// Open makes a store in dir, which it owns alone: it is an error if another
// process has it open. What an earlier process left half done is removed, and so
// is what has not been used for the longest, if there is more than the budget.
func Open(dir string, fetcher Fetcher, opts Options) (_ *Store, err error) {
	if opts.Budget == 0 {
		opts.Budget = 4 << 30
	}
	if opts.Fetched == nil {
		opts.Fetched = func(time.Duration, error) {}
	}
	if opts.Log == nil {
		opts.Log = slog.Default()
	}
	opts.Limits = opts.Limits.withDefaults()
	s := &Store{
		dir: dir, fetcher: fetcher, opts: opts, step: func(string) {},
		busy: make(chan struct{}, maxBusy), entries: map[string]*entry{},
	}
	s.ctx, s.stop = context.WithCancelCause(context.Background())
	// Containers are given mounts; nobody but the agent walks through here.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("bundle: make the store's folder: %w", err)
	}
	if err := s.own(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.stop(ErrClosed)
			err = errors.Join(err, s.lock.Close())
		}
	}()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("bundle: read the boot id: %w", err)
	}
	s.boot = strings.TrimSpace(string(boot))
	if err := s.restore(); err != nil {
		return nil, fmt.Errorf("bundle: take over what is kept in %s: %w", dir, err)
	}
	return s, nil
}

// own takes the store's lock, which ends with the process.
func (s *Store) own() error {
	lock, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("bundle: open the store's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("bundle: %s is in use by another process, perhaps another agent on this node: %w", s.dir, err), lock.Close())
	}
	s.lock = lock
	return nil
}

// restore finds the bundles of an earlier process. Each was put under its name in
// one step; what else there is was left half done:
//   - in partial: a bundle that was being unpacked or deleted;
//   - in sha256 without a manifest that can be read: a bundle that a power loss
//     took the manifest from. Other damage is found when the bundle is used.
func (s *Store) restore() error {
	if err := os.RemoveAll(filepath.Join(s.dir, "partial")); err != nil {
		return err
	}
	scratch, err := s.scratch("")
	if err != nil {
		return err
	}
	if err := os.Remove(scratch); err != nil {
		return err
	}
	found, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return err
	}
	for _, f := range found {
		m, err := readManifest(s.path(f.Name()))
		if err != nil || !validName(f.Name()) {
			s.opts.Log.Warn("what is no whole bundle is removed", "name", f.Name(), "err", err)
			if err := os.RemoveAll(s.path(f.Name())); err != nil {
				return err
			}
			continue
		}
		info, err := f.Info()
		if err != nil {
			return err
		}
		s.entries[f.Name()] = &entry{name: f.Name(), bytes: m.Bytes, lastUsed: info.ModTime()}
		s.used += m.Bytes
	}
	for s.used > s.opts.Budget {
		if ok, err := s.evict(); err != nil || !ok {
			return err
		}
	}
	return nil
}

// path is where a whole bundle is.
func (s *Store) path(name string) string { return filepath.Join(s.dir, "sha256", name) }

// Close ends the fetches under way and waits for them. Bundles in use keep
// their folders.
func (s *Store) Close() {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	s.stop(ErrClosed)
	s.running.Wait()
	if !closed {
		_ = s.lock.Close() // that gives it up, whatever it says
	}
}

// Get returns the bundle of a digest ("sha256:" and 64 lower-case hex digits)
// for a namespace and fetches it if the node does not have it yet. Callers that ask
// for the same meanwhile share one fetch; it ends early when the last of them
// gives up. A failure is not remembered: the next Get tries again.
//
// Its errors wrap ErrRefused, ErrNoRoom, ErrClosed, the cause of ctx's end, or
// what the fetcher said.
func (s *Store) Get(ctx context.Context, namespace, digest string) (*Bundle, error) {
	name, err := nameOf(namespace, digest)
	if err != nil {
		return nil, err
	}
	for {
		e, w, err := s.use(name)
		if err != nil {
			return nil, err
		}
		b := &Bundle{dir: filepath.Join(s.path(name), "content"), release: sync.OnceFunc(func() { s.release(e) })}
		if w == nil {
			return b, nil
		}
		select {
		case <-w.done:
			err = w.err
		case <-ctx.Done():
			b.Release()
			return nil, fmt.Errorf("bundle: wait for %s: %w", digest, context.Cause(ctx))
		}
		if err == nil {
			return b, nil
		}
		b.Release()
		if errors.Is(err, errGivenUp) {
			continue // by those who waited before this caller did
		}
		return nil, err
	}
}

// use counts a use of a bundle and returns the work to wait for, if any.
func (s *Store) use(name string) (*entry, *work, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, ErrClosed
	}
	e := s.entries[name]
	switch {
	case e == nil:
		e = &entry{name: name}
		s.entries[name] = e
		s.begin(e, false)
	case e.refs == 0 && e.work == nil:
		// Nobody has watched over it since it was last used.
		s.begin(e, true)
	}
	e.refs++
	e.lastUsed = time.Now()
	return e, e.work, nil
}

// release drops one reference. Work that nobody waits for any more is ended.
func (s *Store) release(e *entry) {
	now := time.Now()
	s.mu.Lock()
	e.refs--
	e.lastUsed = now
	idle := e.refs == 0
	if idle && e.work != nil {
		e.work.cancel()
	}
	s.mu.Unlock()
	if idle {
		s.touch(e, now)
	}
}

// touch notes when a bundle was used, for the next process: without it that
// drops another one first.
func (s *Store) touch(e *entry, now time.Time) {
	if err := os.Chtimes(s.path(e.name), now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Debug("when a bundle was used is not noted", "digest", e.digest(), "err", err)
	}
}

// Stats is a store in numbers.
type Stats struct {
	// Bundles counts those that are on the disk, or on their way there; Bytes is
	// what they take of Budget.
	Bundles       int
	Bytes, Budget int64
	// InUse is what those take that somebody uses or waits for.
	InUse int64
	// Evicted counts, since the store was opened, those dropped for others.
	Evicted int64
}

// Stats returns the numbers of now.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{Bundles: len(s.entries), Bytes: s.used, Budget: s.opts.Budget, Evicted: s.evicted}
	for _, e := range s.entries {
		if e.refs > 0 {
			stats.InUse += e.bytes
		}
	}
	return stats
}

// hexDigits are those of a digest, ownerDigits those of a namespace's.
const hexDigits, ownerDigits = 64, 32

// nameOf is the name of a bundle's folder for a namespace, which no other has. The
// digest is checked: nothing else than digits becomes a file's name.
func nameOf(namespace, digest string) (string, error) {
	digits, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || !isHex(digits, hexDigits) {
		return "", fmt.Errorf("bundle: %q is no digest: want \"sha256:\" and 64 lower-case hex digits", digest)
	}
	owner := sha256.Sum256([]byte(namespace))
	return hex.EncodeToString(owner[:ownerDigits/2]) + "-" + digits, nil
}

// validName reports whether a folder's name is of nameOf's form.
func validName(name string) bool {
	owner, digits, ok := strings.Cut(name, "-")
	return ok && isHex(owner, ownerDigits) && isHex(digits, hexDigits)
}

func isHex(s string, length int) bool {
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}
