package nodeagent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sanfran.dev/nodeagent/logs"
)

const (
	// outputKept is how much of a container's latest output is kept, in bytes, to
	// say why it ended.
	outputKept = 8 << 10
	// outputEnds is how long a container that is no more may take to be read to
	// the end: its log's disk may be slow.
	outputEnds = 5 * time.Second
	// readAtOnce is how much is read by one call; a pipe holds as much.
	readAtOnce = 64 << 10
)

// maxReports is how many lines of a container's worker are logged: hostile code
// could write them, too.
const maxReports = 10

// output takes in what a container writes: by its standard output, its standard
// error, and the pipe that its worker writes frames to (see package logs). Each
// container has goroutines of its own for it: one whose log's disk is slow waits,
// and no other.
//
// The order of what comes by one pipe is kept. Frames go before plain output that
// can be read at the same time: a process that fails writes why past the worker,
// and last.
type output struct {
	stdout, stderr, frames *outputPipe
	done                   chan struct{} // closed when all pipes have ended

	taking sync.Mutex // held while output is taken in
	lines  *logs.Lines
	hidden [][]byte // of standard error, each once

	mu   sync.Mutex
	tail []byte
}

// outputPipe is a pipe whose writing end blocks and whose reading end does not.
// The writing end is nil where another process has made the pipe.
type outputPipe struct{ read, write *os.File }

func newOutputPipe() (*outputPipe, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make a pipe for a container's output: %w", err)
	}
	// Before NewFile, which looks whether it may wait for the file.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, errors.Join(fmt.Errorf("make a pipe for a container's output: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return &outputPipe{read: os.NewFile(uintptr(fds[0]), "output"), write: os.NewFile(uintptr(fds[1]), "output")}, nil
}

// newOutput makes the pipes of the container of that id.
func newOutput(id string, log *slog.Logger) (_ *output, err error) {
	o := outputOf(id, log)
	for _, p := range []**outputPipe{&o.stdout, &o.stderr, &o.frames} {
		if *p, err = newOutputPipe(); err != nil {
			return nil, errors.Join(err, o.closePipes())
		}
	}
	o.take()
	return o, nil
}

// adoptOutput goes on with the reading ends of pipes from which a process has read
// that has died. What that one had taken in and not yet written, at most what a
// pipe holds and lines without an end, is lost. Nothing is read before take.
func adoptOutput(id string, log *slog.Logger, stdout, stderr, frames int) *output {
	o := outputOf(id, log)
	o.lines.Join()
	o.stdout, o.stderr, o.frames = adoptPipe(stdout), adoptPipe(stderr), adoptPipe(frames)
	return o
}

func adoptPipe(fd int) *outputPipe { return &outputPipe{read: os.NewFile(uintptr(fd), "output")} }

func outputOf(id string, log *slog.Logger) *output {
	o := &output{done: make(chan struct{})}
	reports := 0
	o.lines = logs.NewLines(o.keep, func(text string) {
		if reports++; reports <= maxReports {
			log.Warn("a container's worker reports", "container", id, "text", text)
		}
	})
	return o
}

// take starts the goroutines that take the output in. They end with the container.
func (o *output) take() {
	var reading sync.WaitGroup
	reading.Go(func() { o.frames.drain(o.takeFrames) })
	reading.Go(func() { o.stdout.drain(func(fd int, b []byte) int { return o.takePlain(logs.Stdout, fd, b) }) })
	reading.Go(func() { o.stderr.drain(func(fd int, b []byte) int { return o.takePlain(logs.Stderr, fd, b) }) })
	go func() {
		reading.Wait()
		close(o.done)
	}()
}

// buffers are for reading. A container that writes nothing holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, readAtOnce); return &b }}

// nothingYet is what readNow returns when it would have to wait.
const nothingYet = -1

// readNow reads what is there. It returns 0 when the last writer is gone.
func readNow(fd int, b []byte) int {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == nil:
			return n
		case errors.Is(err, unix.EAGAIN):
			return nothingYet
		case !errors.Is(err, unix.EINTR):
			return 0
		}
	}
}

// drain calls take, which reads with readNow and returns what that did, until the
// last writer is gone or the pipe is closed.
func (p *outputPipe) drain(take func(fd int, buffer []byte) int) {
	conn, err := p.read.SyscallConn()
	for ended := false; err == nil && !ended; {
		err = conn.Read(func(fd uintptr) bool {
			b := buffers.Get().(*[]byte)
			defer buffers.Put(b)
			n := take(int(fd), *b)
			ended = n == 0
			return n != nothingYet
		})
	}
}

func (o *output) takeFrames(fd int, b []byte) int {
	o.taking.Lock()
	defer o.taking.Unlock()
	n := readNow(fd, b)
	if n > 0 {
		o.lines.Framed(b[:n])
	}
	return n
}

func (o *output) takePlain(stream logs.Stream, fd int, b []byte) int {
	n := readNow(fd, b)
	if n <= 0 {
		return n
	}
	o.taking.Lock()
	defer o.taking.Unlock()
	o.takeFramesFirst()
	b = b[:n]
	if stream == logs.Stderr {
		b = o.withoutHidden(b)
	}
	o.lines.Raw(stream, b)
	return n
}

// hide leaves words out of the standard error that comes from now on, each once.
// Each is written by one call, so that it comes whole.
func (o *output) hide(words ...string) {
	o.taking.Lock()
	defer o.taking.Unlock()
	for _, w := range words {
		o.hidden = append(o.hidden, []byte(w))
	}
}

// withoutHidden takes out of p what is to be left out. The caller holds taking.
func (o *output) withoutHidden(p []byte) []byte {
	o.hidden = slices.DeleteFunc(o.hidden, func(word []byte) bool {
		before, after, found := bytes.Cut(p, word)
		if found {
			p = slices.Concat(before, after)
		}
		return found
	})
	return p
}

// takeFramesFirst takes in the frames that are there, but not without end. The
// caller holds taking.
func (o *output) takeFramesFirst() {
	conn, err := o.frames.read.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = conn.Control(func(fd uintptr) { // not called when closed
		b := buffers.Get().(*[]byte)
		defer buffers.Put(b)
		for range 4 {
			n := readNow(int(fd), *b)
			if n <= 0 {
				return
			}
			o.lines.Framed((*b)[:n])
		}
	})
}

// begin leads the output into a pod's log; what came before is in no log.
func (o *output) begin(log *logs.Log) {
	o.taking.Lock()
	defer o.taking.Unlock()
	log.Begin(o.lines)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = nil
}

// keep keeps the last outputKept bytes.
func (o *output) keep(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail = append(o.tail, p...)
	if n := len(o.tail); n > 2*outputKept {
		o.tail = append(o.tail[:0], o.tail[n-outputKept:]...)
	}
}

// last is the end of the output, at most outputKept bytes.
func (o *output) last() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.tail[max(0, len(o.tail)-outputKept):])
}

// started closes the agent's copies of the writing ends, once the container has
// its own.
func (o *output) started() {
	for _, p := range o.pipes() {
		p.write.Close()
	}
}

// ended waits until all output of a container that is no more has been taken in.
// False: that takes too long.
func (o *output) ended() bool {
	timer := time.NewTimer(outputEnds)
	defer timer.Stop()
	select {
	case <-o.done:
		return true
	case <-timer.C:
		return false
	}
}

// finish takes in the last output of a container that has ended.
func (o *output) finish() {
	if !o.ended() {
		return
	}
	o.taking.Lock()
	defer o.taking.Unlock()
	o.lines.End()
}

// conclude is finish, and adds words of the agent's own as what is written last,
// on standard error: whole lines. They are lost if the last output cannot be taken
// in.
func (o *output) conclude(words string) {
	if !o.ended() {
		return
	}
	o.taking.Lock()
	defer o.taking.Unlock()
	o.lines.End()
	o.lines.Raw(logs.Stderr, []byte(words))
	o.lines.End()
}

// close ends the log's lines and closes the pipes. What a slow disk still holds
// back is lost.
func (o *output) close() error {
	o.started()
	if !o.ended() {
		return errors.Join(o.closePipes(), fmt.Errorf("a container's output could not be taken in within %v after its end; its log lacks the last of it", outputEnds))
	}
	o.taking.Lock()
	defer o.taking.Unlock()
	o.lines.End()
	return o.closePipes()
}

func (o *output) pipes() (all []*outputPipe) {
	for _, p := range []*outputPipe{o.stdout, o.stderr, o.frames} {
		if p != nil {
			all = append(all, p)
		}
	}
	return all
}

func (o *output) closePipes() error {
	var errs []error
	for _, p := range o.pipes() {
		p.write.Close() // may be closed already
		errs = append(errs, p.read.Close())
	}
	return errors.Join(errs...)
}
