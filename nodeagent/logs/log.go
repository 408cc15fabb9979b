package logs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
)

// Log is the log of one pod. It is safe for concurrent use.
type Log struct {
	store *Store
	dir   string

	users int // guarded by store.mu

	mu sync.Mutex // never held while records are written
	// runs are the present and the one before; the last is the present. None:
	// there was no container, and nobody has asked.
	runs []*run
	// newest are the lines of the last container that began to write; nil: of one
	// that has crashed, or there was none.
	newest *Lines
	gone   bool
}

// find takes in what is in the folder.
func (l *Log) find() error {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for a pod's log: %w", err)
	}
	byNumber := map[int]*run{}
	for _, e := range entries {
		number, no, ok := parsePath(e.Name())
		info, err := e.Info()
		if !ok || err != nil {
			continue
		}
		r := byNumber[number]
		if r == nil {
			r = &run{log: l, number: number, fileNo: -1, begun: true, ended: true}
			byNumber[number] = r
			l.runs = append(l.runs, r)
		}
		r.files = append(r.files, file{no, info.Size()})
		l.store.used.Add(info.Size())
	}
	slices.SortFunc(l.runs, func(a, b *run) int { return cmp.Compare(a.number, b.number) })
	for _, r := range l.runs {
		slices.SortFunc(r.files, func(a, b file) int { return cmp.Compare(a.no, b.no) })
	}
	if n := len(l.runs); n > 0 {
		// Crashed marks the beginning of a run by an empty file.
		l.runs[n-1].ended = false
		l.runs[n-1].begun = l.runs[n-1].files[len(l.runs[n-1].files)-1].size > 0
	}
	return nil
}

// Begin leads the lines of a further container of the pod into the log. The caller
// calls End on them when the container is no more.
func (l *Log) Begin(lines *Lines) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.runs) == 0 {
		l.runs = append(l.runs, &run{log: l, fileNo: -1})
	}
	r := l.runs[len(l.runs)-1]
	r.mu.Lock()
	r.begun = true
	r.mu.Unlock()
	l.newest = lines
	lines.begin(r)
}

// Crashed says that a container has ended by itself, or is about to be ended: the
// next one writes a run of its own. What the lines still bring goes to the run that
// has ended, but not to who follows it: call their End first where that is possible.
// Nothing happens if a further container writes by now: the run is that one's, too.
func (l *Log) Crashed(lines *Lines) {
	l.mu.Lock()
	n := len(l.runs)
	if l.gone || l.newest != lines {
		l.mu.Unlock()
		return
	}
	l.newest = nil
	ended := l.runs[n-1]
	next := &run{log: l, number: ended.number + 1, fileNo: -1}
	if n > 1 {
		l.runs[n-2].end(true)
		for l.runs[n-2].drop() {
		}
	}
	l.runs = []*run{ended, next}
	ended.end(false)
	l.mu.Unlock()
	if err := next.mark(); err != nil {
		l.store.failed(l, err)
	}
}

// Close says that the pod is not served any more by this process. Its log stays.
func (l *Log) Close() { l.release() }

// Remove is Close for a pod that is no more. When it was the last user, whoever
// follows the log has its end, and its files are removed. No container of the pod
// may be left.
func (l *Log) Remove() error {
	if !l.release() {
		return nil
	}
	return l.store.remove(l)
}

// release ends one use, and reports whether it was the last.
func (l *Log) release() bool {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.users--
	return l.users == 0
}

// end ends all runs for good and returns how many bytes they had.
func (l *Log) end() (size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.runs {
		size += r.size()
		r.end(true)
	}
	l.gone, l.runs = true, nil
	return size
}

func (l *Log) size() (total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.runs {
		total += r.size()
	}
	return total
}

// drop removes the oldest file of the log.
func (l *Log) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.runs {
		if r.size() > 0 {
			r.drop()
			return
		}
	}
}
