package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"
)

// ReadOptions are those of kubectl logs. A negative Tail or Limit counts as 0.
type ReadOptions struct {
	// Previous reads the run before the last crash.
	Previous bool
	// Follow goes on until the run ends.
	Follow bool
	// Tail is how many lines from the end to begin at; nil: at the beginning. A
	// line counts as one however long it is, unlike the kubelet's.
	Tail *int64
	// Since leaves out what was written earlier.
	Since time.Time
	// Limit bounds the output, in bytes; nil: no bound.
	Limit *int64
	// Timestamps puts the time in front of each line.
	Timestamps bool
	// Stream is the only one to read; 0: both.
	Stream Stream
}

var (
	// ErrNoPrevious says that no container of the pod has ended by itself.
	ErrNoPrevious = errors.New("no container of the pod has ended by itself")
	// ErrGone says that the pod is no more.
	ErrGone = errors.New("the log has been removed")
)

// chunkBytes is how much is passed on at once at most.
const chunkBytes = 32 << 10

// Reading is a log being read, from Read.
type Reading struct {
	run  *run
	opts ReadOptions

	since  []byte // of the layout of records
	file   *os.File
	at     file  // which file is open, and how much of it was read
	lines  int64 // still to be passed on, of a tail; -1: all
	remain int64 // bytes, of a limit
	inLine bool
	in     *bufio.Reader // nil until something was read
	out    []byte
	stream Stream // of out, with split
	split  bool
}

// Read prepares to read what a pod has written. Its errors are ErrNoPrevious and
// ErrGone. The caller calls Run.
func (l *Log) Read(opts ReadOptions) (*Reading, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	present := len(l.runs) - 1
	// Until the next container, the run that has ended is the present one, too.
	if present >= 1 {
		r := l.runs[present]
		r.mu.Lock()
		begun := r.begun
		r.mu.Unlock()
		if opts.Previous || !begun {
			present--
		}
	} else if opts.Previous {
		return nil, ErrNoPrevious
	}
	if l.gone {
		return nil, ErrGone
	}
	if present < 0 { // whoever follows waits for the first container
		l.runs, present = append(l.runs, &run{log: l, fileNo: -1}), 0
	}
	r := &Reading{run: l.runs[present], opts: opts, at: file{no: -1}, lines: -1, remain: 1<<63 - 1}
	if !opts.Since.IsZero() {
		r.since = []byte(opts.Since.UTC().Format(timeLayout))
	}
	if opts.Limit != nil {
		r.remain = max(0, *opts.Limit)
	}
	return r, nil
}

// errEnough: the limit is reached.
var errEnough = errors.New("enough")

// Run passes the log on until its end, or ctx's, or an error of pass. The bytes
// are pass's only during the call.
func (r *Reading) Run(ctx context.Context, pass func([]byte) error) error {
	return r.readOn(ctx, func(_ Stream, b []byte) error { return pass(b) })
}

// RunStreams is Run for who wants to know which stream each piece was written to.
// Pieces come in the order of writing.
func (r *Reading) RunStreams(ctx context.Context, pass func(Stream, []byte) error) error {
	r.split = true
	return r.readOn(ctx, pass)
}

func (r *Reading) readOn(ctx context.Context, pass func(Stream, []byte) error) (err error) {
	defer func() {
		if r.file != nil {
			err = errors.Join(err, r.file.Close())
		}
		if errors.Is(err, errEnough) {
			err = nil
		}
	}()
	if err := r.seek(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		changed, ended := r.watch()
		if err := r.advance(ctx, pass); err != nil {
			return err
		}
		if err := r.flush(pass); err != nil {
			return err
		}
		if ended || !r.opts.Follow {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// watch returns a channel that is closed when there is more.
func (r *Reading) watch() (changed <-chan struct{}, ended bool) {
	r.run.mu.Lock()
	defer r.run.mu.Unlock()
	if r.run.changed == nil {
		r.run.changed = make(chan struct{})
	}
	return r.run.changed, r.run.ended
}

// advance passes on what is there.
func (r *Reading) advance(ctx context.Context, pass func(Stream, []byte) error) error {
	for ctx.Err() == nil {
		size, last, err := r.open()
		if err != nil || r.file == nil {
			return err
		}
		if err := r.pass(ctx, size, pass); err != nil {
			return err
		}
		if last {
			return nil
		}
		err = r.file.Close()
		r.file = nil
		if err != nil {
			return err
		}
	}
	return nil
}

// open makes file the one to read: the one that is open, or the next. It returns
// how much there is of it, and whether it is the last. File is nil when there is
// none (yet).
func (r *Reading) open() (size int64, last bool, err error) {
	for {
		r.run.mu.Lock()
		files := r.run.files
		i := slices.IndexFunc(files, func(f file) bool { return f.no > r.at.no || f.no == r.at.no && r.file != nil })
		var found file
		if i >= 0 {
			found = files[i]
		}
		last = i == len(files)-1
		r.run.mu.Unlock()
		switch {
		case r.file != nil && (i < 0 || found.no != r.at.no):
			// It was dropped while it was being read. It is still all there.
			info, err := r.file.Stat()
			if err != nil {
				return 0, false, err
			}
			return info.Size(), i < 0, nil
		case i < 0:
			return 0, true, nil
		case r.file != nil:
			return found.size, last, nil
		}
		f, err := os.Open(r.run.path(found.no))
		if err == nil {
			r.file, r.at = f, file{no: found.no}
			return found.size, last, nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return 0, false, err
		}
		r.at = file{no: found.no} // dropped just now
	}
}

// pass passes the open file on, from where reading was, up to size.
func (r *Reading) pass(ctx context.Context, size int64, pass func(Stream, []byte) error) error {
	if r.in == nil {
		r.in = bufio.NewReaderSize(nil, 4*maxRecord)
	}
	r.in.Reset(io.NewSectionReader(r.file, r.at.size, size-r.at.size))
	for ctx.Err() == nil {
		line, err := r.in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil // a record that is not whole stays for the next time
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return err
		}
		// No record fills the buffer: what does is none, nor is its rest.
		r.at.size += int64(len(line))
		rec, ok := parseRecord(line)
		if !ok {
			continue
		}
		if r.split && rec.stream != r.stream {
			if err := r.flush(pass); err != nil {
				return err
			}
			r.stream = rec.stream
		}
		if err := r.emit(rec); err != nil {
			return errors.Join(r.flush(pass), err)
		}
		if len(r.out) >= chunkBytes {
			if err := r.flush(pass); err != nil {
				return err
			}
		}
	}
	return nil
}

// emit adds a record to what is passed on next.
func (r *Reading) emit(rec record) error {
	begins := !r.inLine
	r.inLine = rec.partial
	if r.since != nil && bytes.Compare(rec.time, r.since) < 0 || r.opts.Stream != 0 && rec.stream != r.opts.Stream {
		return nil
	}
	before := len(r.out)
	if begins && r.opts.Timestamps {
		r.out = append(append(r.out, rec.time...), ' ')
	}
	r.out = append(r.out, rec.text...)
	if added := int64(len(r.out) - before); added >= r.remain {
		r.out = r.out[:before+int(r.remain)]
		return errEnough
	} else {
		r.remain -= added
	}
	return nil
}

func (r *Reading) flush(pass func(Stream, []byte) error) error {
	if len(r.out) == 0 {
		return nil
	}
	err := pass(r.stream, r.out)
	r.out = r.out[:0]
	return err
}

// seek finds where the tail begins.
func (r *Reading) seek() error {
	if r.opts.Tail == nil {
		return nil
	}
	r.run.mu.Lock()
	files := slices.Clone(r.run.files)
	r.run.mu.Unlock()
	want := max(0, *r.opts.Tail)
	for i, f := range slices.Backward(files) {
		open, err := os.Open(r.run.path(f.no))
		if errors.Is(err, os.ErrNotExist) {
			return nil // dropped, with all before it: begin with what there is
		}
		if err != nil {
			return err
		}
		start, found, err := tailStart(open, f.size, want)
		if err != nil {
			return errors.Join(err, open.Close())
		}
		want -= found
		if start > 0 || want == 0 && i == len(files)-1 {
			r.file, r.at = open, file{no: f.no, size: start}
			return nil
		}
		if err := open.Close(); err != nil {
			return err
		}
	}
	return nil
}

// tailStart returns where the last n lines of a file of records begin, and how
// many lines there are from there on. If there are no more than n, that is at 0.
// A line begins where the one before has ended.
func tailStart(f io.ReaderAt, size, n int64) (start, found int64, err error) {
	const block = 64 << 10
	var window []byte // what is at left of the file, up to at
	left, at := size, size
	for {
		// One record back: from the line feed before at to the one before that.
		var feed int
		for {
			feed = -1
			if len(window) > 0 {
				feed = bytes.LastIndexByte(window[:len(window)-1], '\n')
			}
			if feed >= 0 || left == 0 {
				break
			}
			more := make([]byte, min(block, left), min(block, left)+int64(len(window)))
			left -= int64(len(more))
			if _, err := f.ReadAt(more, left); err != nil {
				return 0, 0, err
			}
			window = append(more, window...)
		}
		if len(window) == 0 {
			return 0, found, nil
		}
		rec, ok := parseRecord(window[feed+1:])
		if ok && !rec.partial {
			if found == n {
				return at, found, nil
			}
			found++
		}
		window = window[:feed+1]
		at = left + int64(len(window))
	}
}
