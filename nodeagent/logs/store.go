package logs

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options say how much a Store keeps. Zero values mean the defaults.
type Options struct {
	// Dir is a folder of the store's own.
	Dir string
	// MaxFileBytes is when the next file of a pod is begun (default 10 MiB),
	// MaxFiles how many a pod has at most, per run (default 5); a kubelet's
	// defaults.
	MaxFileBytes int64
	MaxFiles     int
	// Budget bounds all files together, in bytes (default 4 GiB). Beyond it the
	// pod with the greatest log loses its oldest file.
	Budget int64
	// Log is slog.Default() if nil.
	Log *slog.Logger
}

// Store is the logs of a node's pods. It is safe for concurrent use.
type Store struct {
	opts Options
	used atomic.Int64
	// complained is when a failure was last logged, in Unix nanoseconds.
	complained atomic.Int64
	lost       atomic.Int64

	mu   sync.Mutex
	logs map[string]*Log // by their folders' names
	// trash counts folders that were moved out of the way to be removed.
	trash int
}

// Open returns the store of a folder, which is made if it is not there. What an
// earlier process has kept is there.
func Open(opts Options) (*Store, error) {
	opts.MaxFileBytes = cmp.Or(opts.MaxFileBytes, 10<<20)
	opts.MaxFiles = cmp.Or(opts.MaxFiles, 5)
	opts.Budget = cmp.Or(opts.Budget, 4<<30)
	opts.Log = cmp.Or(opts.Log, slog.Default())
	if !filepath.IsAbs(opts.Dir) || opts.MaxFileBytes < 0 || opts.MaxFiles < 2 || opts.Budget < opts.MaxFileBytes {
		return nil, fmt.Errorf("logs in %q of %d files of %d bytes, %d in all: give an absolute path, at least 2 files, and a budget of at least one file",
			opts.Dir, opts.MaxFiles, opts.MaxFileBytes, opts.Budget)
	}
	s := &Store{opts: opts, logs: map[string]*Log{}}
	if err := os.MkdirAll(opts.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("make the folder of logs: %w", err)
	}
	entries, err := os.ReadDir(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("look for logs: %w", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), trash) {
			if err := os.RemoveAll(filepath.Join(opts.Dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove what is left of a log: %w", err)
			}
			continue
		}
		if !e.IsDir() || strings.Count(e.Name(), "_") != 2 {
			continue
		}
		l := &Log{store: s, dir: filepath.Join(opts.Dir, e.Name())}
		if err := l.find(); err != nil {
			return nil, err
		}
		s.logs[e.Name()] = l
	}
	return s, nil
}

// maxName is the longest name that a Linux filesystem takes, in bytes.
const maxName = 255

// folderOf names a pod's folder as the kubelet does. The UID alone is unique: a
// name that is too long is cut.
func folderOf(namespace, name, uid string) string {
	room := maxName - len(namespace) - len(uid) - len("__")
	return namespace + "_" + name[:max(0, min(len(name), room))] + "_" + uid
}

// Pod returns the log of a pod. It touches no disk. The caller calls Close or
// Remove on it once.
func (s *Store) Pod(namespace, name, uid string) *Log {
	folder := folderOf(namespace, name, uid)
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.logs[folder]
	if l == nil {
		l = &Log{store: s, dir: filepath.Join(s.opts.Dir, folder)}
		s.logs[folder] = l
	}
	l.users++
	return l
}

// RemoveUnused removes the logs of pods that nobody has asked for: they were
// deleted while nobody looked.
func (s *Store) RemoveUnused() error {
	var errs []error
	for _, l := range s.all() {
		errs = append(errs, s.remove(l))
	}
	return errors.Join(errs...)
}

// remove removes a log unless somebody uses it. A new one of the same pod may
// begin meanwhile.
func (s *Store) remove(l *Log) error {
	s.mu.Lock()
	if folder := filepath.Base(l.dir); l.users > 0 || s.logs[folder] != l {
		s.mu.Unlock()
		return nil
	} else {
		delete(s.logs, folder)
	}
	s.trash++
	away := filepath.Join(s.opts.Dir, fmt.Sprint(trash, s.trash))
	size := l.end()
	err := os.Rename(l.dir, away)
	s.mu.Unlock()
	s.use(-size)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it never wrote
	}
	if err = errors.Join(err, os.RemoveAll(away)); err != nil {
		return fmt.Errorf("remove a pod's log: %w", err)
	}
	return nil
}

// trash is how the names of folders begin that are being removed.
const trash = ".removed-"

// Used is the size of all files together, in bytes.
func (s *Store) Used() int64 { return s.used.Load() }

// Lost counts writes that failed since the store was opened.
func (s *Store) Lost() int64 { return s.lost.Load() }

func (s *Store) all() []*Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Log, 0, len(s.logs))
	for _, l := range s.logs {
		all = append(all, l)
	}
	return all
}

// use counts bytes, and makes room when there are too many.
func (s *Store) use(n int64) {
	if s.used.Add(n) <= s.opts.Budget || n <= 0 {
		return
	}
	for s.used.Load() > s.opts.Budget {
		var greatest *Log
		var size int64
		for _, l := range s.all() {
			if own := l.size(); own > size {
				greatest, size = l, own
			}
		}
		if greatest == nil {
			return
		}
		greatest.drop()
	}
}

// complainEvery is how often failures to write are logged: each may be one of
// thousands.
const complainEvery = 10 * time.Second

// failed notes that something of a log could not be written or removed.
func (s *Store) failed(l *Log, err error) {
	s.lost.Add(1)
	now, before := time.Now().UnixNano(), s.complained.Load()
	if now-before < int64(complainEvery) || !s.complained.CompareAndSwap(before, now) {
		return
	}
	s.opts.Log.Error("a function's log is not kept", "folder", l.dir, "err", err)
}
