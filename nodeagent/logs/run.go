package logs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// run is the records of a pod from one crash to the next, in numbered files of
// which the last grows. A file never changes its name, so that a reader can tell
// where it is.
type run struct {
	log    *Log
	number int

	// writing is held while records are written: whoever has a slow disk waits
	// for it, and nobody else. It is taken before mu.
	writing sync.Mutex
	file    *os.File
	fileNo  int // of file
	// open is who has written the beginning of a line that has no end yet, and
	// openStream where to.
	open       *unfinished
	openStream Stream
	scratch    []byte

	mu sync.Mutex // never held during I/O
	// files are those there are, the oldest first.
	files []file
	// begun: a container has written to it, or could have. ended: none will.
	// removed: nothing is kept of what one still writes.
	begun, ended, removed bool
	changed               chan struct{} // closed by the next change; nil: nobody waits
}

// file is one file of a run.
type file struct {
	no   int
	size int64 // what is there to be read
}

func (r *run) path(no int) string {
	return filepath.Join(r.log.dir, fmt.Sprintf("%d-%06d.log", r.number, no))
}

// parsePath reads what path makes; false: it is no name of ours.
func parsePath(name string) (run, no int, ok bool) {
	base, isLog := strings.CutSuffix(name, ".log")
	first, second, both := strings.Cut(base, "-")
	run, err := strconv.Atoi(first)
	no, err2 := strconv.Atoi(second)
	return run, no, isLog && both && err == nil && err2 == nil && run >= 0 && no >= 0
}

// append writes records. What cannot be written is lost; the store says so.
func (r *run) append(b batch) {
	r.writing.Lock()
	defer r.writing.Unlock()
	data := b.records
	if r.open != nil && r.open != b.of {
		r.scratch = append(appendRecord(r.scratch[:0], time.Now(), r.openStream, 'F', "", nil), data...)
		data = r.scratch
	}
	r.open, r.openStream = b.by, b.stream
	if err := r.write(data); err != nil {
		r.open = nil
		r.log.store.failed(r.log, err)
	}
}

// write adds data to the newest file, or begins one. It does nothing after remove.
func (r *run) write(data []byte) error {
	r.mu.Lock()
	removed, newest := r.removed, file{no: -1}
	if n := len(r.files); n > 0 {
		newest = r.files[n-1]
	}
	r.mu.Unlock()
	if removed {
		return nil
	}
	full := newest.size > 0 && newest.size+int64(len(data)) > r.log.store.opts.MaxFileBytes
	if r.file == nil || newest.no != r.fileNo || full {
		if err := r.next(newest, full); err != nil {
			return err
		}
	}
	n, err := r.file.Write(data)
	r.grew(int64(n))
	if err != nil {
		// What stands there half would join with what comes next.
		return errors.Join(err, r.closeFile())
	}
	return nil
}

// next opens the file to write to: the newest, if there is one and it is not full
// and nobody has it open, or a further one.
func (r *run) next(newest file, full bool) error {
	again := r.file == nil && newest.no >= 0 && !full
	if err := r.closeFile(); err != nil {
		return err
	}
	if again {
		f, size, err := openWhole(r.path(newest.no))
		if err == nil {
			r.file, r.fileNo = f, newest.no
			r.grew(size - newest.size)
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	no := max(newest.no, r.fileNo) + 1
	if err := os.MkdirAll(r.log.dir, 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(r.path(no), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	r.file, r.fileNo = f, no
	r.mu.Lock()
	r.files = append(r.files, file{no: no})
	surplus := len(r.files) - r.log.store.opts.MaxFiles
	r.mu.Unlock()
	for range surplus {
		r.drop()
	}
	return nil
}

// mark makes an empty file, so that a later process knows that the run before has
// ended.
func (r *run) mark() error {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.mu.Lock()
	needed := !r.removed && len(r.files) == 0
	r.mu.Unlock()
	if !needed {
		return nil
	}
	if err := r.next(file{no: -1}, false); err != nil {
		return err
	}
	return r.closeFile()
}

// grew makes n further bytes of the newest file readable.
func (r *run) grew(n int64) {
	r.mu.Lock()
	if last := len(r.files) - 1; last >= 0 && r.files[last].no == r.fileNo {
		r.files[last].size += n
	} else {
		n = 0 // dropped meanwhile
	}
	r.wake()
	r.mu.Unlock()
	r.log.store.use(n)
}

// wake tells those that follow. The caller holds mu.
func (r *run) wake() {
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
}

// drop removes the oldest file, and reports whether there was one.
func (r *run) drop() bool {
	r.mu.Lock()
	if len(r.files) == 0 {
		r.mu.Unlock()
		return false
	}
	oldest := r.files[0]
	r.files = r.files[1:]
	r.mu.Unlock()
	if err := os.Remove(r.path(oldest.no)); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.log.store.failed(r.log, err)
	}
	r.log.store.use(-oldest.size)
	return true
}

func (r *run) size() (total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range r.files {
		total += f.size
	}
	return total
}

// rest closes the file until there is something to write again.
func (r *run) rest() {
	r.writing.Lock()
	defer r.writing.Unlock()
	r.open = nil
	if err := r.closeFile(); err != nil {
		r.log.store.failed(r.log, err)
	}
}

func (r *run) closeFile() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}

// end says that nothing more comes or, if it is removed, is kept.
func (r *run) end(removed bool) {
	r.mu.Lock()
	r.ended, r.removed = true, r.removed || removed
	r.wake()
	r.mu.Unlock()
}

// openWhole opens a file to go on writing. What the last writer left unfinished,
// because it was ended in the middle, is ended: half a record is cut off, half a
// line gets its end. It returns the file's length.
func openWhole(name string) (_ *os.File, size int64, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if size, err = f.Seek(0, io.SeekEnd); err != nil || size == 0 {
		return f, size, err
	}
	tail := make([]byte, min(size, int64(2*maxRecord)))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return nil, 0, err
	}
	whole := tail[:bytes.LastIndexByte(tail, '\n')+1]
	if half := len(tail) - len(whole); half > 0 {
		size -= int64(half)
		if err := f.Truncate(size); err != nil {
			return nil, 0, err
		}
	}
	if len(whole) == 0 {
		return f, size, nil
	}
	last, ok := parseRecord(whole[bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1:])
	if !ok || !last.partial {
		return f, size, nil
	}
	n, err := f.Write(appendRecord(nil, time.Now(), last.stream, 'F', "", nil))
	return f, size + int64(n), err
}
