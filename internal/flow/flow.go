// Package flow carries streams of bytes over a stream of messages that they share
// with each other and with messages of other kinds, such that none holds up
// another: whoever receives messages never waits for whoever reads bytes, because a
// writer is at most Window ahead of its reader. Beyond that it waits.
//
// The Writer at one end and the Reader at the other belong together. What the
// Writer sends is handed to the Reader with Receive; the Reader says how much was
// taken, and that is handed back to the Writer with Taken. How it is said is the
// user's affair:
//
//	w := flow.NewWriter(func(p []byte) error { return stream.Send(data(p)) })
//	go io.Copy(w, stdout)
//	…
//	case m.GetTaken() > 0:
//		err = w.Taken(m.GetTaken())
//
// and at the other end
//
//	r := flow.NewReader(func(n int) error { return stream.Send(taken(n)) })
//	go io.Copy(client, r)
//	…
//	case m.GetData() != nil:
//		err = r.Receive(m.GetData())
package flow

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// Window is how many bytes a writer may be ahead of its reader; who reads
	// keeps as many. A connection within a cluster needs no more to be kept busy.
	Window = 128 << 10
	// Chunk is how many bytes are sent at once at most.
	Chunk = 32 << 10
)

// ErrOverrun says that the other end does not keep to the window.
var ErrOverrun = errors.New("the other end does not wait until its data is taken")

// Writer is the sending end. Write must not be called by two at once; the other
// methods are safe for concurrent use.
type Writer struct {
	send func([]byte) error

	mu    sync.Mutex
	cond  sync.Cond
	ahead int
	err   error
}

// NewWriter returns a Writer that calls send with at most Chunk bytes, which are
// send's only during the call.
func NewWriter(send func([]byte) error) *Writer {
	w := &Writer{send: send}
	w.cond.L = &w.mu
	return w
}

// Write implements io.Writer. It waits for the reader, until Fail.
func (w *Writer) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n, err := w.await(len(p) - written)
		if err != nil {
			return written, err
		}
		if err := w.send(p[written : written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// await waits until bytes may be sent, and returns how many of those wanted.
func (w *Writer) await(want int) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.ahead == Window {
		w.cond.Wait()
	}
	if w.err != nil {
		return 0, w.err
	}
	n := min(want, Chunk, Window-w.ahead)
	w.ahead += n
	return n, nil
}

// Taken says that the reader has taken so many bytes.
func (w *Writer) Taken(n int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < 0 || n > w.ahead {
		return fmt.Errorf("%d bytes are said to be taken of %d that were sent", n, w.ahead)
	}
	w.ahead -= n
	w.cond.Broadcast()
	return nil
}

// Fail makes Write fail with err, one that waits as well. The first error stays.
func (w *Writer) Fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.cond.Broadcast()
}

// Reader is the receiving end. Read must not be called by two at once; the other
// methods are safe for concurrent use.
type Reader struct {
	taken func(n int) error

	mu   sync.Mutex
	cond sync.Cond
	// data was received and is not read yet.
	data bytes.Buffer
	// read is what was read and is not said to be taken yet.
	read int
	err  error
}

// NewReader returns a Reader that calls taken, within Read, when a part of the
// window has been read.
func NewReader(taken func(n int) error) *Reader {
	r := &Reader{taken: taken}
	r.cond.L = &r.mu
	return r
}

// Receive takes in what came. It never waits. Its error is ErrOverrun. What comes
// after Fail is dropped.
func (r *Reader) Receive(p []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.err != nil || len(p) == 0:
		return nil
	case r.data.Len()+r.read+len(p) > Window:
		return ErrOverrun
	}
	r.data.Write(p)
	r.cond.Broadcast()
	return nil
}

// Fail says that no more comes, io.EOF if that is the end. What was received can
// still be read. The first error stays.
func (r *Reader) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.cond.Broadcast()
}

// Read implements io.Reader. It fails when taken does.
func (r *Reader) Read(p []byte) (int, error) {
	n, say, err := r.next(p)
	if say > 0 {
		err = r.taken(say)
	}
	return n, err
}

// next waits for bytes, and returns how many are to be said to be taken.
func (r *Reader) next(p []byte) (n, say int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p) == 0 {
		return 0, 0, nil
	}
	for r.data.Len() == 0 && r.err == nil {
		r.cond.Wait()
	}
	if r.data.Len() == 0 {
		return 0, 0, r.err
	}
	n, _ = r.data.Read(p) // there is something
	r.read += n
	// Not for every few bytes a message; what is kept back is less than the
	// writer needs to go on. Nobody waits for it after the end.
	if r.read >= Window/4 && r.err == nil {
		say, r.read = r.read, 0
	}
	return n, say, nil
}

var (
	_ io.Writer = (*Writer)(nil)
	_ io.Reader = (*Reader)(nil)
)
